"""A BEIR folder: corpus.jsonl, queries.jsonl and qrels.tsv or qrels/*.tsv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers.qrels import read_qrels
from llama_index_ace_finetune.datasets.source_location import Place
from llama_index_ace_finetune.datasets.text_files import iterate_json_lines, json_type
from llama_index_ace_finetune.errors import DatasetError

FORMAT = "beir"

_IDS = ("_id", "id", "doc_id", "docid", "query_id")
_TEXTS = ("text", "contents", "content", "query", "question")


def recognises(folder: Path) -> bool:
    """Say whether the folder holds a BEIR corpus."""
    return _find(folder, "corpus.jsonl") is not None


def read_beir(folder: Path, builder: DatasetBuilder) -> None:
    """Add the records of a BEIR folder; files may be gzipped.

    A memory's text is its title and text joined by a space, as BEIR embeds it. Grades are kept as they are; 0 is
    judged wrong. Records and judgements that cannot be used are counted and left out. Raises DatasetError.
    """
    read_beir_corpus(_require(folder, "corpus.jsonl"), builder)
    for place, record in iterate_json_lines(_require(folder, "queries.jsonl"), builder.leave_out):
        with builder.row(place):
            builder.add_query(_id(record, place), _text(record, place), place, _metadata(record))
    for path in _qrels(folder):
        read_qrels(path, builder)


def read_beir_corpus(path: Path, builder: DatasetBuilder) -> None:
    """Add the memories of a `corpus.jsonl`; raises DatasetError."""
    for place, record in iterate_json_lines(path, builder.leave_out):
        with builder.row(place):
            text = _text(record, place)
            title = record.get("title")
            if title and isinstance(text, str):
                if not isinstance(title, str):
                    raise DatasetError(f"{place}: the title is {json_type(title)}; it must be a string.")
                text = f"{title} {text}".strip()
            builder.add_memory(_id(record, place), text, place, _metadata(record))


def _metadata(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record's other fields, those of its `metadata` beside them."""
    used = [next((key for key in keys if key in record), None) for keys in (_IDS, _TEXTS)]
    rest = {k: v for k, v in record.items() if k not in (*used, "metadata") and v != ""}
    inner = record.get("metadata")
    if isinstance(inner, dict):
        return {**rest, **inner}
    return rest if inner is None else {**rest, "metadata": inner}


def _id(record: dict[str, Any], place: Place) -> Any:
    key = next((key for key in _IDS if key in record), None)
    if key is None:
        raise DatasetError(f"{place}: the field '_id' is missing; add it.")
    return record[key]


def _text(record: dict[str, Any], place: Place) -> Any:
    key = next((key for key in _TEXTS if key in record), None)
    if key is None:
        raise DatasetError(f"{place}: the field 'text' is missing; add it.")
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
