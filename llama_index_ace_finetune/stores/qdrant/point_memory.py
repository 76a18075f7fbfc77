"""The memory in a point, whoever wrote it."""

from __future__ import annotations

from typing import Any

from llama_index_ace_finetune.datasets.types import MEMORY_ID_FIELDS, Memory
from llama_index_ace_finetune.utils.node_payload import node_in_payload

TEXT_FIELDS = ("content", "lesson", "text", "page_content", "memory", "document", "data", "body")
"""Payload fields in which a text is looked for, in this order, unless the payload holds a LlamaIndex node."""


def memory_of_point(point: Any) -> Memory | None:
    """Return the memory of a point, with the text that LlamaIndex embeds if it holds a node; None without a text."""
    from llama_index.core.schema import MetadataMode

    payload = point.payload or {}
    node = node_in_payload(payload, point_id=point.id)
    if node is not None:
        document = {"ref_doc_id": node.ref_doc_id} if node.ref_doc_id else {}
        embedded = node.get_content(MetadataMode.EMBED)
        return Memory(node.node_id, embedded, {"source_id": point.id, **document, **node.metadata})
    text = next((payload[name] for name in TEXT_FIELDS if isinstance(payload.get(name), str)), None)
    name = next((payload[name] for name in MEMORY_ID_FIELDS if payload.get(name) is not None), point.id)
    return None if text is None else Memory(str(name), text, {"source_id": point.id, **payload})
