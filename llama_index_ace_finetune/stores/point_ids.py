"""Between a node's id and the id of its point in Qdrant."""

from __future__ import annotations

import uuid
from typing import Any, Final

from llama_index_ace_finetune.errors import StoreError

# Not `memory_id`, which a user's metadata may hold.
NODE_ID_FIELD: Final = "_node_id"
_NAMESPACE = uuid.UUID("6e1f3a0c-5f0b-5f5e-9a8e-2f6f5d1c7b11")


PointKey = int | str


def key_of(identifier: int | str | uuid.UUID) -> PointKey:
    """Return a point's id as Qdrant gives it back: a number, or a UUID in its usual spelling."""
    return identifier if isinstance(identifier, int) else str(uuid.UUID(str(identifier)))


def point_id(node_id: str) -> str:
    """Return the Qdrant point id of a node: itself where it is a UUID, else a UUID made from it.

    Raises:
        StoreError: for an id with half a character (a lone surrogate), which nothing can store.
    """
    try:
        if str(uuid.UUID(node_id)) == node_id:  # another spelling of a UUID is another id
            return node_id
    except ValueError:
        pass
    try:
        return str(uuid.uuid5(_NAMESPACE, node_id))
    except UnicodeEncodeError as error:
        raise StoreError(f"The node id {node_id!r:.80} holds half a character; give the node another id.") from error


def point_keys(node_id: str) -> list[PointKey]:
    """Return the ids that the point of a node may have: ours, and the number that another tool gave it."""
    number = node_id.isascii() and node_id.isdecimal() and int(node_id) < 2**64
    return [point_id(node_id), *([int(node_id)] if number and str(int(node_id)) == node_id else [])]


def node_id_of(point: Any) -> str:
    """Return the node id of a point: what we wrote into its payload, else its own id, as LlamaIndex writes it."""
    written = (point.payload or {}).get(NODE_ID_FIELD)
    return written if isinstance(written, str) else str(point.id)
