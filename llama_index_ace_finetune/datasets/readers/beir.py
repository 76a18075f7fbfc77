"""A BEIR folder: corpus.jsonl, queries.jsonl and qrels.tsv or qrels/*.tsv."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers import pairs
from llama_index_ace_finetune.datasets.readers.qrels import read_qrels
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.readers.table import Row, Table
from llama_index_ace_finetune.datasets.source_location import AnyLocation
from llama_index_ace_finetune.datasets.text_files import iterate_json_lines, json_type
from llama_index_ace_finetune.errors import DatasetError

_IDS = ("_id", "id", "doc_id", "docid", "query_id")
_TEXTS = ("text", "contents", "content", "query", "question")


def is_beir_folder(folder: Path) -> bool:
    """Return whether the folder holds a BEIR corpus."""
    return _find(folder, "corpus.jsonl") is not None


def _can_read(source: Path | Table, options: ReadOptions) -> bool:
    """Return whether the source is a BEIR folder or corpus.jsonl, or is said to be: `read` reports missing files."""
    named = options.format == READER.name
    if isinstance(source, Path):
        return named or is_beir_folder(source)
    is_corpus = "_id" in source.first and not options.columns.names and not pairs.has_pairs(source.first)
    return source.is_json_lines and (named or is_corpus)


def read(source: Path | Table, builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add the records of a BEIR folder, or the memories of a `corpus.jsonl`; files may be gzipped.

    A memory's text is its title and text joined by a space, as BEIR embeds it. Grades are kept as they are; 0 is
    not relevant. Records and judgements that cannot be used are counted and left out. Raises DatasetError.
    """
    if isinstance(source, Table):
        _read_corpus(source.stream(), builder)
        return
    _read_corpus(iterate_json_lines(_require(source, "corpus.jsonl"), builder.leave_out), builder)
    for location, record in iterate_json_lines(_require(source, "queries.jsonl"), builder.leave_out):
        with builder.row(location):
            builder.add_query(_id(record, location), _text(record, location), location, _metadata(record))
    for path in _qrels(source):
        read_qrels(path, builder)


def _read_corpus(records: Iterable[Row], builder: DatasetBuilder) -> None:
    for location, record in records:
        with builder.row(location):
            text = _text(record, location)
            title = record.get("title")
            if title and isinstance(text, str):
                if not isinstance(title, str):
                    raise DatasetError(f"{location}: the title is {json_type(title)}; it must be a string.")
                text = f"{title} {text}".strip()
            builder.add_memory(_id(record, location), text, location, _metadata(record))


def _metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record's other fields merged with those of its `metadata`."""
    used = [next((key for key in keys if key in record), None) for keys in (_IDS, _TEXTS)]
    rest = {k: v for k, v in record.items() if k not in (*used, "metadata") and v != ""}
    inner = record.get("metadata")
    if isinstance(inner, dict):
        return {**rest, **inner}
    return rest if inner is None else {**rest, "metadata": inner}


def _id(record: Mapping[str, Any], location: AnyLocation) -> Any:
    key = next((key for key in _IDS if key in record), None)
    if key is None:
        raise DatasetError(f"{location}: the field '_id' is missing; add it.")
    return record[key]


def _text(record: Mapping[str, Any], location: AnyLocation) -> Any:
    key = next((key for key in _TEXTS if key in record), None)
    if key is None:
        raise DatasetError(f"{location}: the field 'text' is missing; add it.")
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


READER = Reader(
    name="beir",
    signature="a BEIR folder has corpus.jsonl, queries.jsonl and qrels.tsv",
    sources=(Path, Table),
    can_read=_can_read,
    read=read,
)
