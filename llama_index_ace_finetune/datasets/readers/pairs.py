"""Pairs and triplets: a row holds a query, a positive or its id, and optionally negatives."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder, require_finite
from llama_index_ace_finetune.datasets.id_texts import are_ids, share_words
from llama_index_ace_finetune.datasets.readers import column_names as names
from llama_index_ace_finetune.datasets.readers.column_choice import EXAMPLE, ColumnChoice, listed
from llama_index_ace_finetune.datasets.readers.column_guess import id_column, nearest_column, wordy_column
from llama_index_ace_finetune.datasets.readers.passages import Passage, passages
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.readers.relevance import Relevance, as_number
from llama_index_ace_finetune.datasets.readers.table import Row, Table
from llama_index_ace_finetune.datasets.source_location import AnyLocation
from llama_index_ace_finetune.datasets.text import id_from_text, normalise
from llama_index_ace_finetune.datasets.text_files import json_type
from llama_index_ace_finetune.errors import DatasetError

_TEXTS = (*names.POSITIVE, *names.PASSAGE, *names.ANSWER, *names.TEXT)
_NO_COLUMN = ""
_SAMPLE = 200
"""Rows from which the kind of a column is guessed for an error."""


@dataclass(frozen=True)
class PairColumns:
    """The roles of the columns of a table of pairs; `text` is "" if the rows hold only ids of memories.

    Attributes:
        query: of the queries.
        text: of the positives.
        negatives: of the negatives.
        label: of grades or scores.
        query_id: of the ids of queries.
        memory_id: of the ids of memories.
        document_id: of the ids of documents that were cut into memories; metadata of the memory.
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
        """All columns with a role; the others are metadata of the query."""
        return {
            self.query, self.text, *self.negatives, self.label, self.query_id, self.memory_id, self.document_id
        }  # fmt: skip


def has_pairs(columns: Iterable[str], choice: ColumnChoice | None = None) -> bool:
    """Return whether the columns hold a query and a positive or its id."""
    present, choice = list(columns), choice or ColumnChoice()
    query = choice.query or names.first_of(names.QUERY, present)
    others = [column for column in present if column != query]
    answer = choice.text or choice.answer_id or names.first_of((*_TEXTS, *names.MEMORY_ID), others)
    return bool(query) and bool(answer)


def _can_read(table: Table, options: ReadOptions) -> bool:
    """Accept any table: the error of `read` names the missing column."""
    return True


def read(table: Table, builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add rows with a query and a positive, and optionally negatives, a label, ids and other columns.

    Columns are recognised by their names (`column_names`), whatever their order, case and spacing, or named by the
    options. A text may be a string, a list, or objects with a text. Of a passage and an answer in one row, the passage
    is the memory. Negatives get grade 0. Without a text, the ids are those of memories from another source. Missing ids
    are derived from the texts. Other columns become the query's metadata; if rows of one query differ in it, the
    smaller value is kept and `conflicting_metadata` noted. Rows that cannot be used are counted as `row_left_out`.

    Raises DatasetError if there is no column of queries, or none of texts or ids.
    """
    held, where, choice = table.rows, table.location, options.columns
    if not held:
        return
    columns = find_columns(table.columns, where, choice, rows=[row for _, row in held[:_SAMPLE]])
    columns = _without_id_texts(columns, held, builder, where)
    columns = _without_document_ids(columns, held, builder, named=bool(choice.answer_id))
    if columns.others:
        used = f"{columns.text!r:.80} is used as the memory, {', '.join(columns.others)[:80]} as metadata"
        builder.ledger.note("text_column_chosen", where, f"{used}; choose another with --columns text=NAME")
    relevance = Relevance()
    if columns.label is not None:
        labels = [row[columns.label] for _, row in held if columns.label in row]
        relevance = Relevance.of(columns.label, labels, choice.min_score)
        if relevance.rule:
            builder.ledger.note(relevance.rule, where, relevance.note)
    for location, row in held:
        with builder.row(location):
            _read_row(row, columns, relevance, location, builder)


def find_columns(
    present: Collection[str], where: object, choice: ColumnChoice, *, rows: Sequence[Mapping[str, Any]] = ()
) -> PairColumns:
    """Return the role of each column; raises DatasetError if there is no query, or no text and no id.

    The error guesses the missing column from its name and from the first `rows`.
    """
    query = choice.column("query", present, where) or names.first_of(names.QUERY, present)
    if query is None:
        guess = nearest_column(names.QUERY, present) or wordy_column(present, rows)
        example = EXAMPLE.replace("query=NAME", f"query={guess}") if guess else EXAMPLE
        raise DatasetError(
            f"{where}: there is no query column; {listed(present, guess or 'query')}; rename one to 'query', or pass "
            f"{example}."
        )
    rest = [column for column in present if column != query]
    # Sentence pairs are numbered from 0 or from 1; the third of three is a negative.
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
        guess = nearest_column((*_TEXTS, *names.MEMORY_ID), free) or wordy_column(free, rows)
        ids = None if guess else id_column(free, rows)
        named = f"{'answer_id' if ids else 'text'}={ids or guess or 'NAME'}"
        raise DatasetError(
            f"{where}: there is no positive column; {listed(free, choice.text or ids or guess or 'text')}; rename one "
            f"to 'positive', 'passage', 'answer' or 'memory_id', or pass {EXAMPLE.replace('text=NAME', named)}."
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


def _without_id_texts(columns: PairColumns, rows: Sequence[Row], builder: DatasetBuilder, where: object) -> PairColumns:
    """Use a column of texts as the ids of memories if it holds ids: a model must not be trained on those."""
    if not columns.text:
        return columns
    held = [(row.get(columns.query), row.get(columns.text)) for _, row in rows]
    if not are_ids(text for _, text in held):
        return columns
    if share_words((str(query), str(text)) for query, text in held):
        return columns
    example = next(str(text) for _, text in held if text is not None)
    builder.ledger.note(
        "text_column_holds_ids", where, f"{columns.text!r:.80} holds ids such as {example!r:.60}, and is read so"
    )
    return replace(columns, text=_NO_COLUMN, memory_id=columns.memory_id or columns.text)


def _without_document_ids(
    columns: PairColumns, rows: Sequence[Row], builder: DatasetBuilder, *, named: bool
) -> PairColumns:
    """Use `doc_id` as metadata if several texts share one: those are chunks of one document."""
    column = columns.memory_id
    if column is None or named or not columns.text:
        return columns
    if names.squash(column) not in {names.squash(name) for name in names.DOCUMENT_ID}:
        return columns
    texts: dict[str, str] = {}
    for location, row in rows:
        text, identifier = row.get(columns.text), str(row.get(column))
        if isinstance(text, str) and texts.setdefault(identifier, normalise(text)) != normalise(text):
            builder.ledger.note(
                "document_id_is_metadata",
                location,
                f"{column} {identifier:.60} is the id of several texts: that of their document",
            )
            return replace(columns, memory_id=None, document_id=column)
    return columns


def _read_row(
    row: Mapping[str, Any], columns: PairColumns, relevance: Relevance, location: AnyLocation, builder: DatasetBuilder
) -> None:
    queries = _queries(row, columns, location)
    number = 1.0
    if columns.label is not None and columns.label in row:
        number = _label(row[columns.label], columns.label, location)
    positives = _positives(row, columns, location)
    negatives = _negatives(row, columns, location, builder)
    known = columns.known
    metadata = {name: value for name, value in row.items() if name not in known and value is not None}
    about = {}
    if columns.document_id is not None and row.get(columns.document_id) is not None:
        about = {columns.document_id: row[columns.document_id]}
    grade = relevance.grade(number)
    for source_id, text in queries:
        query_id = builder.add_query(source_id, text, location, metadata, note_repeat=False)
        _merge_metadata(query_id, metadata, location, builder)
        for passage in positives:
            memory_id = _add(passage, about, location, builder)
            if grade is not None:
                builder.judge(query_id, memory_id, grade, location)
        for passage in negatives:
            builder.judge(query_id, _add(passage, {}, location, builder), 0.0, location)


def _queries(row: Mapping[str, Any], columns: PairColumns, location: AnyLocation) -> list[tuple[Any, str]]:
    """Return (id, text) of the row's query, or of each of its queries if it holds a list."""
    value = row.get(columns.query)
    texts: list[Any] = value if isinstance(value, list) and value else [value]
    for text in texts:
        if not isinstance(text, str):
            raise DatasetError(f"{location}: the query ({columns.query}) is {json_type(text)}; it must be a string.")
    if columns.query_id is None or len(texts) > 1:
        return [(id_from_text("q", text), text) for text in texts]
    return [(_integer_id(row.get(columns.query_id)), texts[0])]


def _positives(row: Mapping[str, Any], columns: PairColumns, location: AnyLocation) -> list[Passage]:
    found: list[Passage] = []
    if columns.text:
        found = passages(row.get(columns.text), columns.text, location)
    if columns.memory_id is None:
        return found
    given = row.get(columns.memory_id)
    ids = [_integer_id(one) for one in (given if isinstance(given, list) else [given])]
    if not columns.text:
        return [Passage(identifier, None) for identifier in ids]
    if len(ids) != len(found):
        raise DatasetError(f"{location}: the row has {len(ids)} id(s) for {len(found)} positive(s); give one each.")
    return [replace(passage, id=identifier) for passage, identifier in zip(found, ids, strict=True)]


def _negatives(
    row: Mapping[str, Any], columns: PairColumns, location: AnyLocation, builder: DatasetBuilder
) -> list[Passage]:
    found: list[Passage] = []
    for name in columns.negatives:
        if name not in row:
            continue
        value = row[name]
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            builder.ledger.note("missing_negative", location, name)
        elif isinstance(value, (bool, int, float)):
            builder.ledger.note("negative_column_not_text", location, name)
        else:
            found += passages(value, name, location)
    return found


def _add(passage: Passage, about: Mapping[str, Any], location: AnyLocation, builder: DatasetBuilder) -> str:
    """Add the text and return its id; a passage of only an id is a memory of another source."""
    if passage.text is None:
        return builder.id_of(passage.id, location)
    identifier = id_from_text("m", passage.text) if passage.id is None else passage.id
    return builder.add_memory(identifier, passage.text, location, about, note_repeat=False)


def _label(value: Any, column: str, location: AnyLocation) -> float:
    number = as_number(value)
    if number is None:
        raise DatasetError(
            f"{location}: the label {value!r:.80} is not a number; give a grade such as 0 or 1, or leave the column "
            f"{column!r:.80} out with --columns label=."
        )
    require_finite(number, location)
    return number


def _integer_id(identifier: Any) -> Any:
    """Return 3 for 3.0: with a missing id, a table holds all ids as floats."""
    return int(identifier) if isinstance(identifier, float) and identifier.is_integer() else identifier


def _merge_metadata(query_id: str, metadata: Mapping[str, Any], location: AnyLocation, builder: DatasetBuilder) -> None:
    held = builder.queries.get(query_id)
    if held is None:
        return
    merged = dict(held.metadata)
    for name, value in metadata.items():
        if name not in merged:
            merged[name] = value
        elif merged[name] != value:
            builder.ledger.note("conflicting_metadata", location, f"{query_id} {name}")
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
