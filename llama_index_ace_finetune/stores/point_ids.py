"""Map node ids to point ids in Qdrant, and back."""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import Any, Final

from llama_index_ace_finetune.errors import StoreError

# Not `memory_id`, which a user's metadata may contain.
NODE_ID_FIELD: Final = "_node_id"
_NAMESPACE = uuid.UUID("6e1f3a0c-5f0b-5f5e-9a8e-2f6f5d1c7b11")


PointKey = int | str


def key_of(identifier: int | str | uuid.UUID) -> PointKey:
    """Return a point's id as Qdrant returns it: a number, or a UUID in canonical form."""
    return identifier if isinstance(identifier, int) else str(uuid.UUID(str(identifier)))


def point_id(node_id: str) -> str:
    """Return the Qdrant point id of a node: the node id if it is a UUID, else a UUID derived from it.

    Raises:
        StoreError: for an id with a lone surrogate, which cannot be stored.
    """
    try:
        if str(uuid.UUID(node_id)) == node_id:  # another spelling of a UUID is a different id
            return node_id
    except ValueError:
        pass
    try:
        return str(uuid.uuid5(_NAMESPACE, node_id))
    except UnicodeEncodeError as error:
        raise StoreError(f"The node id {node_id!r:.80} has a lone surrogate; give the node another id.") from error


@lru_cache(maxsize=1 << 16)
def point_keys(node_id: str) -> tuple[PointKey, ...]:
    """Return the possible point ids of a node: ours, and its own if it is a number, as other tools write it."""
    number = node_id.isascii() and node_id.isdecimal() and int(node_id) < 2**64
    return (point_id(node_id), *([int(node_id)] if number and str(int(node_id)) == node_id else []))


def node_id_of(point: Any) -> str:
    """Return the node id of a point: from our payload field, else the point's id, as LlamaIndex writes it."""
    written = (point.payload or {}).get(NODE_ID_FIELD)
    return written if isinstance(written, str) else str(point.id)
