"""The ACE memory inventory: every memory the system held, without queries."""

from __future__ import annotations

from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.place import JsonPlace
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument, expect_list, expect_object
from llama_index_ace_finetune.errors import DatasetError

FORMAT = "ace_inventory"

_ID_KEYS = ("id", "memory_id")
_TEXT_KEYS = ("lesson", "content")


def recognises(document: JsonDocument) -> bool:
    """Say whether the document is an inventory: a list of objects with an id and a lesson or content."""
    if not isinstance(document.value, list) or not document.value:
        return False
    first = document.value[0]
    if not isinstance(first, dict) or not any(k in first for k in _ID_KEYS):
        return False
    return "payload" in first or any(k in first for k in _TEXT_KEYS)


def read_ace_inventory(document: JsonDocument, builder: DatasetBuilder) -> None:
    """Add the memories of `[{id, payload: {lesson | content, ...}}]` or `[{memory_id, content, ...}]`.

    Raises DatasetError.
    """
    root = document.root
    for index, value in enumerate(expect_list(document.value, root, "the inventory")):
        place = root.at(index)
        _read_entry(expect_object(value, place, "the memory"), place, builder)


def _read_entry(entry: dict[str, Any], place: JsonPlace, builder: DatasetBuilder) -> None:
    id_key = next((k for k in _ID_KEYS if k in entry), None)
    if id_key is None:
        raise DatasetError(f"{place}: the memory has no 'id' and no 'memory_id'; add one.")
    payload, text_place = entry, place
    if "payload" in entry:
        text_place = place.at("payload")
        payload = expect_object(entry["payload"], text_place, "payload")
    text_key = next((k for k in _TEXT_KEYS if k in payload), None)
    if text_key is None:
        raise DatasetError(f"{text_place}: the memory has no 'lesson' and no 'content'; add its text.")
    fields = {**{k: v for k, v in entry.items() if k != "payload"}, **payload, "source_id": entry[id_key]}
    metadata = {k: v for k, v in fields.items() if k not in (id_key, text_key)}
    builder.add_memory(entry[id_key], payload[text_key], text_place.at(text_key), metadata)
