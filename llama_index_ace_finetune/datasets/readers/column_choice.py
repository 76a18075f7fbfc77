"""Columns that a user names, as `--columns query=question,text=context` does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches

from llama_index_ace_finetune.datasets.readers.column_names import squash
from llama_index_ace_finetune.errors import DatasetError

EXAMPLE = "--columns query=NAME,text=NAME"


@dataclass(frozen=True, kw_only=True)
class ColumnChoice:
    """Names of columns; None leaves the choice to the reader, and an empty name means no such column.

    Attributes:
        query: of the queries.
        text: of the positives; `answer` and `positive` mean the same.
        answer_id: of the ids of the positives, or of the memories in a table of memories.
        query_id: of the ids of the queries.
        label: of grades or scores.
        min_score: the lowest score of a relevant pair.
    """

    query: str | None = None
    text: str | None = None
    answer_id: str | None = None
    query_id: str | None = None
    label: str | None = None
    min_score: float | None = None

    @classmethod
    def of(cls, value: str | Mapping[str, str] | ColumnChoice | None) -> ColumnChoice:
        """Read `query=question,text=context`, or a mapping of the same; raises DatasetError."""
        if value is None or isinstance(value, cls):
            return value or cls()
        parts = dict(value) if isinstance(value, Mapping) else _parts(str(value))
        known = [field.name for field in fields(cls)]
        chosen: dict[str, str | float] = {}
        for name, column in parts.items():
            key = {"answer": "text", "positive": "text", "memory_id": "answer_id"}.get(str(name), str(name))
            if key not in known:
                raise DatasetError(f"--columns: there is no {str(name)!r:.80}; name {', '.join(known)}.")
            if key in chosen:
                raise DatasetError(f"--columns: {key} is named twice; leave one of them.")
            chosen[key] = _score(column) if key == "min_score" else str(column)
        return cls(**chosen)  # type: ignore[arg-type]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it names."""
        return tuple(name for name in (self.query, self.text, self.answer_id, self.query_id, self.label) if name)

    def column(self, key: str, present: Collection[str], where: object) -> str | None:
        """Return the column of `present` that was named for `key`, None if none was.

        Raises DatasetError with the existing columns if the named one is missing.
        """
        name = getattr(self, key)
        if not name:
            return None
        found = next((column for column in present if column == name), None)
        found = found or next((column for column in present if squash(column) == squash(name)), None)
        if found is None:
            raise DatasetError(
                f"{where}: there is no column {name!r:.80}, which --columns names as {key}; {listed(present, name)}."
            )
        return found


def listed(present: Collection[str], wanted: str = "") -> str:
    """Return a list of the columns for a message, with the one most similar to a wanted name."""
    near = get_close_matches(squash(wanted), [squash(column) for column in present], n=1) if wanted else []
    nearest = next((column for column in present if near and squash(column) == near[0]), None)
    names = ", ".join(str(column)[:40] for column in list(present)[:12]) or "none"
    return f"the columns are {names}{f'; is it {nearest!r:.80}' if nearest else ''}"


def _parts(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in text.split(","):
        name, mark, column = (piece.strip() for piece in part.partition("="))
        if not mark or not name:
            raise DatasetError(f"--columns: {part.strip()!r:.80} is not of the form key=NAME; write {EXAMPLE}.")
        if name in parts:
            raise DatasetError(f"--columns: {name} is named twice; leave one of them.")
        parts[name] = column
    return parts


def _score(value: object) -> float:
    try:
        return float(str(value))
    except ValueError as error:
        raise DatasetError(f"--columns: min_score is {value!r:.80}; it must be a number.") from error
