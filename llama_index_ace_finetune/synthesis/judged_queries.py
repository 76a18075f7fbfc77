"""JudgedQueries: synthetic queries that a person judged, as a dataset that grows by a line per judgement."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, get_args

from llama_index_ace_finetune.datasets.splits.earlier import EARLIER_FIELD
from llama_index_ace_finetune.datasets.text import id_from_text
from llama_index_ace_finetune.errors import AceFinetuneError, quoted
from llama_index_ace_finetune.utils.line_log import append_line, open_lines

Judgement = Literal["keep", "wrong", "edit"]
_PARTS: Final = ("test", "dev", "test", "dev", "test")
"""Parts of the memories in the order in which they are first judged: three of five are for the test."""
_SYNTHETIC_ID: Final = "synthetic_id"


@dataclass(frozen=True, slots=True)
class SyntheticQuery:
    """A query to be judged, and the memory that it was written for."""

    id: str
    text: str
    memory_id: str
    memory: str


@dataclass
class JudgedQueries:
    """A JSON Lines file of judged queries, which every verb reads as data; open it with `JudgedQueries.open`.

    A query that was kept or edited is a positive pair, a wrong one has the label 0. Each names a part, dev or test, in
    which every later split leaves it; queries about one memory are in one part.
    """

    path: Path
    rows: list[dict[str, Any]]
    _file: BinaryIO = field(repr=False)

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[JudgedQueries]:
        """Open or create the file; only one process may have it open.

        Raises:
            AceFinetuneError: if another process has it open, or the file holds something else.
        """
        with open_lines(path) as (file, lines):
            yield cls(path, [_row(path, number, line) for number, line in enumerate(lines, 1)], file)

    @property
    def judged(self) -> frozenset[str]:
        """Ids of the synthetic queries that were judged."""
        return frozenset(row[_SYNTHETIC_ID] for row in self.rows)

    def add(self, query: SyntheticQuery, judgement: Judgement, *, text: str = "") -> None:
        """Write a judgement; `text` is that of an edited query. It survives a kill of this process."""
        asked = text if judgement == "edit" else query.text
        row: dict[str, Any] = {
            "query_id": id_from_text("judged", asked),
            "query": asked,
            "memory_id": query.memory_id,
            "text": query.memory,
            "label": int(judgement != "wrong"),
            "judgement": judgement,
            _SYNTHETIC_ID: query.id,
        }
        if row["label"]:
            row[EARLIER_FIELD] = self._part(query.memory_id)
        append_line(self._file, json.dumps(row).encode("ascii"))
        self.rows.append(row)

    def _part(self, memory_id: str) -> str:
        memories = list(dict.fromkeys(row["memory_id"] for row in self.rows if row["label"]))
        place = memories.index(memory_id) if memory_id in memories else len(memories)
        return _PARTS[place % len(_PARTS)]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        texts = [row[name] for name in ("query", "memory_id", _SYNTHETIC_ID)]
        whole = all(isinstance(text, str) for text in texts) and row["judgement"] in get_args(Judgement)
        whole = whole and row["label"] in (0, 1)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise AceFinetuneError(
            f"{str(path)!r}, line {number} is not a judged query ({quoted(line[:60])}); give another output."
        )
    found: dict[str, Any] = row
    return found
