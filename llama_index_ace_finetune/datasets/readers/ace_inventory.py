"""The ACE memory inventory: all memories of a system, without queries."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.readers import memories
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions

_TEXT_KEYS = ("lesson", "content")


def is_ace_inventory(document: JsonDocument) -> bool:
    """Return whether the document is an inventory: a list of objects with an id and a lesson or content."""
    if not isinstance(document.value, list) or not memories.is_memory_list(document):
        return False
    first = document.value[0]
    return (
        isinstance(first, dict)
        and ("id" in first or "memory_id" in first)
        and ("payload" in first or any(key in first for key in _TEXT_KEYS))
    )


def _can_read(document: JsonDocument, options: ReadOptions) -> bool:
    return is_ace_inventory(document)


READER = Reader(
    name="ace_inventory",
    signature="an ACE inventory is a list of objects with 'id' and 'lesson' or 'content'",
    sources=(JsonDocument,),
    can_read=_can_read,
    read=memories.read,
)
