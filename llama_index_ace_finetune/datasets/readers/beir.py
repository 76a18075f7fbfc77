"""A BEIR folder: corpus.jsonl, queries.jsonl and qrels.tsv or qrels/*.tsv."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.place import Place
from llama_index_ace_finetune.datasets.text_files import iterate_json_lines, iterate_lines, json_type
from llama_index_ace_finetune.errors import DatasetError

FORMAT = "beir"


def recognises(folder: Path) -> bool:
    """Say whether the folder holds a BEIR corpus."""
    return _find(folder, "corpus.jsonl") is not None


def read_beir(folder: Path, builder: DatasetBuilder) -> None:
    """Add the records of a BEIR folder; files may be gzipped.

    A memory's text is its title and text joined by a space, as BEIR embeds it. Grades are kept as they are; 0 is
    judged wrong. Raises DatasetError.
    """
    read_beir_corpus(_require(folder, "corpus.jsonl"), builder)
    for place, record in iterate_json_lines(_require(folder, "queries.jsonl")):
        builder.add_query(_field(record, "_id", place), _field(record, "text", place), place, _metadata(record))
    for path in _qrels(folder):
        for place, query_id, memory_id, grade in _judgements(path):
            builder.judge(query_id, memory_id, grade, place)


def read_beir_corpus(path: Path, builder: DatasetBuilder) -> None:
    """Add the memories of a `corpus.jsonl`; raises DatasetError."""
    for place, record in iterate_json_lines(path):
        text = _field(record, "text", place)
        title = record.get("title")
        if title and isinstance(text, str):
            if not isinstance(title, str):
                raise DatasetError(f"{place}: the title is {json_type(title)}; it must be a string.")
            text = f"{title} {text}".strip()
        builder.add_memory(_field(record, "_id", place), text, place, _metadata(record))


def _metadata(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record's other fields, those of its `metadata` beside them."""
    rest = {k: v for k, v in record.items() if k not in ("_id", "text", "metadata") and v != ""}
    inner = record.get("metadata")
    if isinstance(inner, dict):
        return {**rest, **inner}
    return rest if inner is None else {**rest, "metadata": inner}


def _field(record: dict[str, Any], key: str, place: Place) -> Any:
    if key not in record:
        raise DatasetError(f"{place}: the field {key!r} is missing; add it.")
    return record[key]


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _require(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise DatasetError(f"{folder}: there is no {name} in this BEIR folder; add it.")
    return path


def _qrels(folder: Path) -> list[Path]:
    single = _find(folder, "qrels.tsv")
    if single is not None:
        return [single]
    inside = folder / "qrels"
    paths = sorted((*inside.glob("*.tsv"), *inside.glob("*.tsv.gz")))
    if not paths:
        raise DatasetError(f"{folder}: there is no qrels.tsv and no qrels/*.tsv in this BEIR folder; add one.")
    return paths


def _judgements(path: Path) -> Iterator[tuple[Place, str, str, float]]:
    """Yield (place, query id, memory id, grade) of rows of three columns, or of TREC's four."""
    file, header = str(path), True
    for number, line in iterate_lines(path):
        if not line or line.isspace():
            continue
        columns = line.split("\t")
        if len(columns) == 4:
            columns = [columns[0], *columns[2:]]
        if len(columns) != 3:
            raise DatasetError(
                f"{Place(file, number)}: the row has {len(columns)} column(s); write query id, memory id and score "
                "with tabs between them."
            )
        grade = _grade(columns[2])
        if grade is None and header:
            header = False
            continue
        header = False
        if grade is None:
            raise DatasetError(
                f"{Place(file, number)}: the score {columns[2]!r:.80} is no number; give a grade like 1."
            )
        yield Place(file, number), columns[0], columns[1], grade


def _grade(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
