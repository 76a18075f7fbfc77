"""Pairs and triplets: one row holds a query, a text that answers it, or its id, and perhaps wrong ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers import column_names as names
from llama_index_ace_finetune.datasets.readers.column_choice import EXAMPLE, ColumnChoice, listed
from llama_index_ace_finetune.datasets.readers.passages import Passage, passages
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.readers.relevance import Relevance, as_number
from llama_index_ace_finetune.datasets.readers.table import Row, Table
from llama_index_ace_finetune.datasets.source_location import AnyPlace
from llama_index_ace_finetune.datasets.text import id_from_text, normalise
from llama_index_ace_finetune.datasets.text_files import json_type
from llama_index_ace_finetune.errors import DatasetError

_TEXTS = (*names.POSITIVE, *names.PASSAGE, *names.ANSWER, *names.TEXT)
_NO_COLUMN = ""


@dataclass(frozen=True)
class PairColumns:
    """What the columns of a table of pairs are; `text` is "" where the rows name memories by id only.

    Attributes:
        query: of the queries.
        text: of the memories.
        negatives: of texts that are wrong for the query.
        label: of grades or scores.
        query_id: of the ids of queries.
        memory_id: of the ids of memories.
        document_id: of the documents that memories were cut from; metadata of the memory.
        others: further columns that could have been the text.
    """

    query: str
    text: str
    negatives: tuple[str, ...] = ()
    label: str | None = None
    query_id: str | None = None
    memory_id: str | None = None
    document_id: str | None = None
    others: tuple[str, ...] = ()

    @property
    def known(self) -> set[str | None]:
        """All that have a use; other columns are metadata of the query."""
        return {
            self.query, self.text, *self.negatives, self.label, self.query_id, self.memory_id, self.document_id
        }  # fmt: skip


def has_pairs(columns: Iterable[str], choice: ColumnChoice | None = None) -> bool:
    """Say whether the columns hold a query and a text or an id that answers it."""
    present, choice = list(columns), choice or ColumnChoice()
    query = choice.query or names.first_of(names.QUERY, present)
    others = [column for column in present if column != query]
    answer = choice.text or choice.answer_id or names.first_of((*_TEXTS, *names.MEMORY_ID), others)
    return bool(query) and bool(answer)


def _can_read(table: Table, options: ReadOptions) -> bool:
    """Take any table, since the error of `read` says which column is missing."""
    return True


def read(table: Table, builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add rows with a query and a text that answers it, and optionally negatives, a label, ids and others.

    Columns are known by their names (`column_names`), whatever their order, case and spacing, or named by the options.
    A text may be a string, a list, or objects with a text. Where a passage and an answer stand beside each other, the
    passage is the memory. Every column of negatives is judged wrong. Without a text, the ids are those of memories
    from another source. Ids that are absent are made from the texts. Other columns become the query's metadata; where
    rows of one query differ in it, the smaller value is kept and `conflicting_metadata` noted. Rows that cannot be
    used are counted as `row_left_out`.

    Raises DatasetError where there is no column of queries, or none of texts or ids.
    """
    held, where, choice = table.rows, table.place, options.columns
    if not held:
        return
    columns = find_columns(table.columns, where, choice)
    columns = _without_document_ids(columns, held, builder, named=bool(choice.answer_id))
    if columns.others:
        used = f"{columns.text!r:.80} is taken for the memory, {', '.join(columns.others)[:80]} for metadata"
        builder.ledger.note("text_column_chosen", where, f"{used}; choose another with --columns text=NAME")
    relevance = Relevance()
    if columns.label is not None:
        labels = [row[columns.label] for _, row in held if columns.label in row]
        relevance = Relevance.of(columns.label, labels, choice.min_score)
        if relevance.rule:
            builder.ledger.note(relevance.rule, where, relevance.note)
    for place, row in held:
        with builder.row(place):
            _read_row(row, columns, relevance, place, builder)


def find_columns(present: Collection[str], where: object, choice: ColumnChoice) -> PairColumns:
    """Return what each column is for; raises DatasetError where there is no query, or no text and no id."""
    query = choice.column("query", present, where) or names.first_of(names.QUERY, present)
    if query is None:
        raise DatasetError(
            f"{where}: there is no query column; {listed(present, 'query')}; name one 'query', or say which with "
            f"{EXAMPLE}."
        )
    rest = [column for column in present if column != query]
    # Sentence pairs are numbered from 0 or from 1; the third of three is a wrong one.
    third = names.first_of(("sentence_2",), rest) if names.squash(query) == "sentence0" else None
    rest = [column for column in rest if column != third]
    negatives = tuple(sorted(column for column in rest if names.is_negative(column))) + ((third,) if third else ())
    free = [column for column in rest if column not in negatives]
    text = choice.column("text", free, where) if choice.text in free or not choice.answer_id else None
    found = list(dict.fromkeys(column for name in _TEXTS if (column := names.first_of((name,), free)) is not None))
    others: tuple[str, ...] = ()
    if text is None and choice.text is None and found:
        text, others = found[0], tuple(found[1:])
    memory_id = _chosen("answer_id", (*names.MEMORY_ID, *names.DOCUMENT_ID), choice, free, where)
    if text is None and memory_id is None:
        raise DatasetError(
            f"{where}: there is no positive column; {listed(free, choice.text or 'text')}; name one 'positive', "
            f"'passage' or 'answer', or say which with {EXAMPLE}."
        )
    return PairColumns(
        query=query,
        text=text or _NO_COLUMN,
        negatives=negatives,
        label=_chosen("label", names.LABEL, choice, free, where),
        query_id=_chosen("query_id", names.QUERY_ID, choice, free, where),
        memory_id=memory_id,
        others=others,
    )


def _chosen(
    key: str, usual: Sequence[str], choice: ColumnChoice, present: Collection[str], where: object
) -> str | None:
    if getattr(choice, key) is not None:
        return choice.column(key, present, where)
    return names.first_of(usual, present)


def _without_document_ids(
    columns: PairColumns, rows: Sequence[Row], builder: DatasetBuilder, *, named: bool
) -> PairColumns:
    """Take `doc_id` for metadata where it stands for several texts: those are chunks of one document."""
    column = columns.memory_id
    if column is None or named or not columns.text:
        return columns
    if names.squash(column) not in {names.squash(name) for name in names.DOCUMENT_ID}:
        return columns
    texts: dict[str, str] = {}
    for place, row in rows:
        text, identifier = row.get(columns.text), str(row.get(column))
        if isinstance(text, str) and texts.setdefault(identifier, normalise(text)) != normalise(text):
            builder.ledger.note(
                "document_id_is_metadata", place, f"{column} {identifier:.60} stands for several texts: their document"
            )
            return replace(columns, memory_id=None, document_id=column)
    return columns


def _read_row(
    row: Mapping[str, Any], columns: PairColumns, relevance: Relevance, place: AnyPlace, builder: DatasetBuilder
) -> None:
    queries = _queries(row, columns, place)
    number = 1.0
    if columns.label is not None and columns.label in row:
        number = _label(row[columns.label], columns.label, place)
    positives = _positives(row, columns, place)
    negatives = _negatives(row, columns, place, builder)
    known = columns.known
    metadata = {name: value for name, value in row.items() if name not in known and value is not None}
    about = {}
    if columns.document_id is not None and row.get(columns.document_id) is not None:
        about = {columns.document_id: row[columns.document_id]}
    grade = relevance.grade(number)
    for source_id, text in queries:
        query_id = builder.add_query(source_id, text, place, metadata, note_repeat=False)
        _merge_metadata(query_id, metadata, place, builder)
        for passage in positives:
            memory_id = _add(passage, about, place, builder)
            if grade is not None:
                builder.judge(query_id, memory_id, grade, place)
        for passage in negatives:
            builder.judge(query_id, _add(passage, {}, place, builder), 0.0, place)


def _queries(row: Mapping[str, Any], columns: PairColumns, place: AnyPlace) -> list[tuple[Any, str]]:
    """Return (id, text) of the row's query, or of each of its queries where it holds a list."""
    value = row.get(columns.query)
    texts: list[Any] = value if isinstance(value, list) and value else [value]
    for text in texts:
        if not isinstance(text, str):
            raise DatasetError(f"{place}: the query ({columns.query}) is {json_type(text)}; it must be a string.")
    if columns.query_id is None or len(texts) > 1:
        return [(id_from_text("q", text), text) for text in texts]
    return [(_whole(row.get(columns.query_id)), texts[0])]


def _positives(row: Mapping[str, Any], columns: PairColumns, place: AnyPlace) -> list[Passage]:
    found: list[Passage] = []
    if columns.text:
        found = passages(row.get(columns.text), columns.text, place)
    if columns.memory_id is None:
        return found
    given = row.get(columns.memory_id)
    ids = [_whole(one) for one in (given if isinstance(given, list) else [given])]
    if not columns.text:
        return [Passage(identifier, None) for identifier in ids]
    if len(ids) != len(found):
        raise DatasetError(f"{place}: {len(ids)} id(s) stand beside {len(found)} positive(s); give one each.")
    return [replace(passage, id=identifier) for passage, identifier in zip(found, ids, strict=True)]


def _negatives(row: Mapping[str, Any], columns: PairColumns, place: AnyPlace, builder: DatasetBuilder) -> list[Passage]:
    found: list[Passage] = []
    for name in columns.negatives:
        if name not in row:
            continue
        value = row[name]
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            builder.ledger.note("missing_negative", place, name)
        elif isinstance(value, (bool, int, float)):
            builder.ledger.note("negative_column_not_text", place, name)
        else:
            found += passages(value, name, place)
    return found


def _add(passage: Passage, about: Mapping[str, Any], place: AnyPlace, builder: DatasetBuilder) -> str:
    """Add the text and return its id; a passage that is an id only is a memory of another source."""
    if passage.text is None:
        return builder.id_of(passage.id, place)
    identifier = id_from_text("m", passage.text) if passage.id is None else passage.id
    return builder.add_memory(identifier, passage.text, place, about, note_repeat=False)


def _label(value: Any, column: str, place: AnyPlace) -> float:
    number = as_number(value)
    if number is None:
        raise DatasetError(
            f"{place}: the label {value!r:.80} is no number; give a grade such as 0 or 1, or leave the column "
            f"{column!r:.80} out with --columns label=."
        )
    if not math.isfinite(number):
        raise DatasetError(f"{place}: the score {number} is not a finite number; give a grade such as 0 or 1.")
    return number


def _whole(identifier: Any) -> Any:
    """Return 3 for 3.0: a table with a missing id holds all ids as floats."""
    return int(identifier) if isinstance(identifier, float) and identifier.is_integer() else identifier


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


READER = Reader(
    name="pairs",
    signature="a table or list of pairs has 'query' and 'positive', 'passage' or 'answer'",
    sources=(Table,),
    can_read=_can_read,
    read=read,
)
