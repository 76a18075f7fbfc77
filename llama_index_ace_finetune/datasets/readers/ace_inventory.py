"""The ACE memory inventory: every memory the system held, without queries."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.readers import memory_list
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument

FORMAT = "ace_inventory"

_TEXT_KEYS = ("lesson", "content")


def recognises(document: JsonDocument) -> bool:
    """Say whether the document is an inventory: a list of objects with an id and a lesson or content."""
    if not isinstance(document.value, list) or not memory_list.recognises(document):
        return False
    first = document.value[0]
    return ("id" in first or "memory_id" in first) and ("payload" in first or any(key in first for key in _TEXT_KEYS))
