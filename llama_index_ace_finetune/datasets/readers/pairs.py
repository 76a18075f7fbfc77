"""Pairs and triplets: one row holds a query, a right answer and perhaps wrong ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.identifiers import id_from_text
from llama_index_ace_finetune.datasets.place import AnyPlace
from llama_index_ace_finetune.datasets.text_files import json_type
from llama_index_ace_finetune.errors import DatasetError

FORMAT = "pairs"

Row: TypeAlias = tuple[AnyPlace, Mapping[str, Any]]

_QUERY = ("query", "anchor", "question", "sentence_0")
_POSITIVE = ("positive", "positives", "pos", "answer", "passage", "document", "context", "memory", "sentence_1")
_NEGATIVE = re.compile(r"negatives?|neg|negative_?\d+")
_LABEL = ("label", "score")
_QUERY_ID = ("query_id", "query-id", "qid")
_MEMORY_ID = ("memory_id", "positive_id", "corpus_id", "corpus-id", "doc_id", "document_id")


@dataclass(frozen=True)
class PairColumns:
    """The names of the columns of a table of pairs."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    label: str | None
    query_id: str | None
    memory_id: str | None

    @property
    def known(self) -> set[str | None]:
        """All of them: other columns are metadata."""
        return {self.query, self.positive, *self.negatives, self.label, self.query_id, self.memory_id}


def recognises(columns: Iterable[str]) -> bool:
    """Say whether the columns hold a query and a right answer."""
    names = set(columns)
    return any(name in names for name in _QUERY) and any(name in names for name in _POSITIVE)


def read_pairs(rows: Iterable[Row], builder: DatasetBuilder) -> None:
    """Add rows with a query column and a positive column, and optionally negatives, a label, ids and others.

    Names: query | anchor | question | sentence_0; positive | pos | answer | passage | document | context |
    memory | sentence_1, a text or a list; negative | negatives | neg | negative_1 ...; label | score, the
    grade of the positive (1 where absent; 0 is judged wrong); query_id; memory_id. Ids that are absent are made from
    the texts. Other columns become the query's metadata; where rows of one query differ in it, the smaller value is
    kept and `conflicting_metadata` noted, so that the order of rows does not matter. Raises DatasetError.
    """
    columns: PairColumns | None = None
    names: frozenset[str] = frozenset()
    for place, row in rows:
        if columns is None or row.keys() != names:  # JSON Lines may change their keys on the way
            names = frozenset(row)
            columns = find_columns(names, place)
        _read_row(row, columns, place, builder)


def find_columns(present: Collection[str], place: AnyPlace) -> PairColumns:
    """Return what each column is for; raises DatasetError where there is no query or no positive."""

    def first(names: Iterable[str]) -> str | None:
        return next((name for name in names if name in present), None)

    query, positive = first(_QUERY), first(_POSITIVE)
    for found, kind, names in ((query, "query", _QUERY), (positive, "positive", _POSITIVE)):
        if found is None:
            raise DatasetError(f"{place}: there is no {kind} column; name one of them {', '.join(names[:3])}.")
    negatives = tuple(sorted(name for name in present if _NEGATIVE.fullmatch(name)))
    return PairColumns(str(query), str(positive), negatives, first(_LABEL), first(_QUERY_ID), first(_MEMORY_ID))


def _read_row(row: Mapping[str, Any], columns: PairColumns, place: AnyPlace, builder: DatasetBuilder) -> None:
    text = row[columns.query]
    source_id = id_from_text("q", text) if columns.query_id is None and isinstance(text, str) else None
    if columns.query_id is not None:
        source_id = row[columns.query_id]
    if not isinstance(text, str):
        raise DatasetError(f"{place}: the query ({columns.query}) is {json_type(text)}; it must be a string.")
    known = columns.known
    metadata = {name: value for name, value in row.items() if name not in known and value is not None}
    query_id = builder.add_query(source_id, text, place, metadata, note_repeat=False)
    _merge_metadata(query_id, metadata, place, builder)
    grade = _grade(row[columns.label], place) if columns.label is not None else 1.0
    positives = _texts(row[columns.positive], columns.positive, place)
    for memory_id, positive in zip(_memory_ids(row, columns, positives, place), positives, strict=True):
        builder.judge(query_id, builder.add_memory(memory_id, positive, place, note_repeat=False), grade, place)
    for name in columns.negatives:
        if row[name] is None or row[name] == "":
            builder.ledger.note("missing_negative", place, name)
            continue
        for negative in _texts(row[name], name, place):
            memory_id = builder.add_memory(id_from_text("m", negative), negative, place, note_repeat=False)
            builder.judge(query_id, memory_id, 0.0, place)


def _texts(value: Any, column: str, place: AnyPlace) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str):
            raise DatasetError(f"{place}: the text in {column!r} is {json_type(text)}; it must be a string or a list.")
    return texts


def _memory_ids(row: Mapping[str, Any], columns: PairColumns, texts: list[str], place: AnyPlace) -> list[Any]:
    if columns.memory_id is None:
        return [id_from_text("m", text) for text in texts]
    given = row[columns.memory_id]
    ids = given if isinstance(given, list) else [given]
    if len(ids) != len(texts):
        raise DatasetError(f"{place}: {len(ids)} id(s) stand beside {len(texts)} right answer(s); give one each.")
    return ids


def _grade(value: Any, place: AnyPlace) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise DatasetError(f"{place}: the label {value!r:.80} is no number; give a grade such as 0 or 1.") from None


def _merge_metadata(query_id: str, metadata: Mapping[str, Any], place: AnyPlace, builder: DatasetBuilder) -> None:
    held = builder.queries.get(query_id)
    if held is None:
        return
    merged = dict(held.metadata)
    for name, value in metadata.items():
        if name not in merged:
            merged[name] = value
        elif merged[name] != value:
            builder.ledger.note("conflicting_metadata", place, f"{query_id} {name}")
            merged[name] = min(merged[name], value, key=repr)
    if merged != held.metadata:
        builder.queries[query_id] = replace(held, metadata=merged)
