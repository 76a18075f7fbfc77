"""LlamaIndex nodes in the payloads of Qdrant points."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index.core.schema import BaseNode


def node_in_payload(payload: Mapping[str, Any] | None, *, point_id: object = None) -> BaseNode | None:
    """Return the node in a payload that LlamaIndex wrote; None if it has no readable node.

    Args:
        payload: of a point.
        point_id: id for a node whose record has none.
    """
    from llama_index.core.schema import ImageNode, IndexNode, MetadataMode, Node, TextNode

    content = (payload or {}).get("_node_content")
    if not isinstance(content, str):
        return None
    try:
        record = json.loads(content)
        # A blank Document is written with a text_resource of null, which no node type accepts.
        record = {key: value for key, value in record.items() if value is not None or not key.startswith("text")}
        if point_id is not None:
            record.setdefault("id_", str(point_id))
        # As LlamaIndex reads them: any other type, `Document` too, is a TextNode.
        types = {kind.class_name(): kind for kind in (Node, IndexNode, ImageNode)}
        node: BaseNode = types.get(str((payload or {}).get("_node_type")), TextNode).from_dict(record)
        readable = isinstance(node.get_content(MetadataMode.EMBED), str)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return None
    return node if readable else None
