"""Lists of memories without queries: inventories, dumps of agent memories, tables of snippets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers import column_names as names
from llama_index_ace_finetune.datasets.readers import pairs
from llama_index_ace_finetune.datasets.readers.column_choice import EXAMPLE, ColumnChoice, listed
from llama_index_ace_finetune.datasets.readers.inactive import is_inactive
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument
from llama_index_ace_finetune.datasets.readers.llama_nodes import add_node
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.readers.table import Table
from llama_index_ace_finetune.datasets.source_location import AnyLocation, JsonLocation
from llama_index_ace_finetune.datasets.text import id_from_text, normalise
from llama_index_ace_finetune.datasets.text_files import json_type
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.node_payload import node_in_payload

_IDS = ("id", "_id", "memory_id", "uuid", "key", *names.MEMORY_ID, *names.DOCUMENT_ID, "point_id", "hash")
_TEXTS = ("lesson", "memory", *names.TEXT, *names.PASSAGE, *names.ANSWER, "value", "data", "embedding_text")
_ONLY_TEXTS = ("lesson", "memory", *names.TEXT)
_LISTS = ("results", "memories", "passages", "items", "points", "documents", "records", "data", "result", "facts")
_VECTORS = frozenset({"embedding", "vector", "vectors"})
_INNER = ("payload", "metadata", "metadata_")


def is_memory_list(document: JsonDocument) -> bool:
    """Return whether a JSON document is a list of memories, such as an inventory, or an object that holds one."""
    rows, _ = list_of(document.value, document.root)
    return bool(rows) and (isinstance(rows[0], str) or (isinstance(rows[0], dict) and is_memory(rows[0])))


def is_memory(row: Mapping[str, Any]) -> bool:
    """Return whether a row is a memory: an id and a text without a query, or nothing but a text."""
    if pairs.has_pairs(row):
        return False
    if len(row) == 1 and names.first_of(_ONLY_TEXTS, row) is not None:
        return True
    payload = row.get("payload")
    inner = payload if isinstance(payload, Mapping) else row
    return names.first_of(_IDS, row) is not None and (
        "payload" in row or names.first_of(_TEXTS, inner) not in (None, names.first_of(_IDS, row))
    )


def list_of(value: Any, location: JsonLocation) -> tuple[Sequence[Any], JsonLocation]:
    """Return the list in a JSON value, which may be in an object under a usual key; empty if there is none."""
    for _ in range(2):
        if isinstance(value, list):
            return value, location
        key = next((key for key in _LISTS if isinstance(value, dict) and value.get(key)), None)
        if key is None:
            break
        value, location = value[key], location.at(key)
    return (value, location) if isinstance(value, list) else ((), location)


def _can_read(source: JsonDocument | Table, options: ReadOptions) -> bool:
    """Return whether the source is a list of memories, or a table without pairs or used only for its memories."""
    if isinstance(source, JsonDocument):
        return is_memory_list(source)
    if options.format == READER.name:
        return True
    if pairs.has_pairs(source.columns, None if options.memories_only else options.columns):
        return False
    return options.memories_only or is_memory(dict.fromkeys(source.columns))


def read(source: JsonDocument | Table, builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add rows with a text and an id, or with both in a `payload`; other fields are metadata. A row may be a text.

    Rows that are marked as archived or deleted are counted as `inactive_memory_skipped`, stored vectors are left
    out, rows that cannot be used are counted as `row_left_out`. Document ids that several texts share are metadata;
    missing ids are derived from the texts, as are all if no row has one.
    """
    held, choice = _rows(source, builder), ColumnChoice()
    if isinstance(source, Table):
        choice = options.columns
        check_columns(source.columns, source.location, choice)
    documents = _document_ids(held, choice)
    if documents:
        builder.ledger.note("document_id_is_metadata", held[0][0], "several texts share an id: that of their document")
    ids_missing = bool(documents) or not any(
        isinstance(row, Mapping) and _column("answer_id", _IDS, choice, list(row)) for _, row in held
    )
    for location, row in held:
        with builder.row(location):
            _read_row(row, location, builder, choice, documents, ids_missing=ids_missing)


def _rows(source: JsonDocument | Table, builder: DatasetBuilder) -> list[tuple[AnyLocation, Any]]:
    if isinstance(source, Table):
        return list(source.rows)
    values, root = list_of(source.value, source.root)
    rows = ({"text": value} if isinstance(value, str) else value for value in values)
    return [(builder.location(root.at(index)), row) for index, row in enumerate(rows)]


def check_columns(present: Collection[str], where: object, choice: ColumnChoice) -> None:
    """Raise DatasetError if a table has no column of texts."""
    if choice.text not in present and names.first_of(_TEXTS, present) is None:
        raise DatasetError(
            f"{where}: there is no column of texts; {listed(present, choice.text or 'text')}; rename one to 'text', or "
            f"pass {EXAMPLE}."
        )


def _document_ids(rows: Sequence[tuple[AnyLocation, Any]], choice: ColumnChoice) -> frozenset[str]:
    """Return the names of document id columns whose ids several texts share."""
    texts: dict[tuple[str, str], str] = {}
    for _, row in rows:
        if not isinstance(row, Mapping) or choice.answer_id:
            continue
        column, text_column = names.first_of(_IDS, row), names.first_of(_TEXTS, row)
        if column is None or text_column is None:
            continue
        if names.squash(column) not in {names.squash(name) for name in names.DOCUMENT_ID}:
            continue
        text = normalise(str(row[text_column]))
        if texts.setdefault((column, str(row[column])), text) != text:
            return frozenset({column})
    return frozenset()


def _read_row(
    row: Any,
    location: AnyLocation,
    builder: DatasetBuilder,
    choice: ColumnChoice,
    documents: frozenset[str],
    *,
    ids_missing: bool,
) -> None:
    if not isinstance(row, Mapping):
        raise DatasetError(f"{location}: the memory is {json_type(row)}; it must be an object.")
    node = node_in_payload(row.get("payload") if "payload" in row else row, point_id=row.get("id"))
    if node is not None:
        add_node(node, builder, location)
        return
    id_column = _column("answer_id", _IDS, choice, [column for column in row if column not in documents])
    payload, text_location = row, location
    if "payload" in row:
        text_location = location.at("payload")
        payload = row["payload"]
        if not isinstance(payload, Mapping):
            raise DatasetError(f"{text_location}: payload is {json_type(payload)}; it must be an object.")
    free = [column for column in payload if payload is not row or column != id_column]
    text_column = _column("text", _TEXTS, choice, [column for column in free if payload[column] is not None])
    if id_column is None and not ids_missing:
        raise DatasetError(f"{location}: the memory has no 'id' and no 'memory_id'; add one.")
    if text_column is None:
        raise DatasetError(f"{text_location}: the memory has no 'lesson', 'content' or 'text'; add its text.")
    fields = _flat(row, payload)
    if is_inactive(fields):
        builder.ledger.note("inactive_memory_skipped", location, str(row.get(id_column or "")))
        return
    if any(fields.get(name) is not None for name in _VECTORS):
        builder.ledger.note("stored_embedding_ignored", location)
    text = payload[text_column]
    identifier = row[id_column] if id_column is not None else id_from_text("m", str(text))
    metadata = {k: v for k, v in fields.items() if k not in (id_column, text_column) and k not in _VECTORS}
    if id_column is not None:
        metadata["source_id"] = identifier
    builder.add_memory(identifier, text, text_location.at(text_column), metadata)


def _column(key: str, usual: Sequence[str], choice: ColumnChoice, present: Sequence[str]) -> str | None:
    named = getattr(choice, key)
    if named and (found := names.first_of((named,), present)) is not None:
        return found
    return names.first_of(usual, present)


def _flat(row: Mapping[str, Any], payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a row merged with those of its payload and metadata."""
    fields = {name: value for name, value in row.items() if name != "payload"}
    if payload is not row:
        fields = {**fields, **payload}
    for name in _INNER[1:]:
        if isinstance(fields.get(name), Mapping):
            inner = fields.pop(name)
            fields = {**inner, **fields}
    return fields


READER = Reader(
    name="memories",
    signature="a table or list of memories has 'id' and 'text', 'content' or 'lesson', or texts only",
    sources=(JsonDocument, Table),
    can_read=_can_read,
    read=read,
)
