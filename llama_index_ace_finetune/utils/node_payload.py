"""LlamaIndex nodes in the payloads of Qdrant points and in the records of a docstore."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index.core.schema import BaseNode


def node_in_payload(payload: object, *, point_id: object = None) -> BaseNode | None:
    """Return the node in a payload that LlamaIndex wrote; None if it has no readable node.

    Args:
        payload: of a point; anything but a mapping has no node.
        point_id: id for a node whose record has none.
    """
    content = payload.get("_node_content") if isinstance(payload, Mapping) else None
    if not isinstance(payload, Mapping) or not isinstance(content, str):
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return node_of_record(record, str(payload.get("_node_type")), default_id=point_id)


def node_of_record(record: Any, type_name: str, *, default_id: object = None) -> BaseNode | None:
    """Return the node whose fields are in a record, as LlamaIndex writes it; None if it cannot be read.

    Args:
        record: fields of the node.
        type_name: name of its class; any other than Node, IndexNode and ImageNode is read as a TextNode.
        default_id: id for a node whose record has none.
    """
    from llama_index.core.schema import ImageNode, IndexNode, MetadataMode, Node, TextNode

    try:
        # A blank Document is written with a text_resource of null, which no node type accepts.
        record = {key: value for key, value in record.items() if value is not None or not key.startswith("text")}
        if default_id is not None:
            record.setdefault("id_", str(default_id))
        # As LlamaIndex reads them: any other type, `Document` too, is a TextNode.
        types = {kind.class_name(): kind for kind in (Node, IndexNode, ImageNode)}
        node: BaseNode = types.get(type_name, TextNode).from_dict(record)
        readable = isinstance(node.get_content(MetadataMode.EMBED), str)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return None
    return node if readable else None
