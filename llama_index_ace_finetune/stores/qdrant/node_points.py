"""Points made of nodes: the payload that LlamaIndex reads, and the vectors of each model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from numpy.typing import NDArray
from qdrant_client import models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, point_id
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import BM25, SparseBM25


def node_points(
    nodes: Sequence[BaseNode], vectors: Mapping[str, NDArray[np.float32]], sparse: SparseBM25 | None
) -> list[models.PointStruct]:
    """Return the points to write: per node its row of `vectors[name]` [n, dimension], and its words if `sparse`."""
    return [
        models.PointStruct(
            id=point_id(node.node_id),
            vector={name: rows[place].tolist() for name, rows in vectors.items()} | _words(node, sparse),
            payload=payload_of(node),
        )
        for place, node in enumerate(nodes)
    ]


def payload_of(node: BaseNode) -> dict[str, Any]:
    """Return what LlamaIndex's `QdrantVectorStore` writes of a node, and its id as it is.

    Raises:
        StoreError: for a node that JSON cannot hold.
    """
    try:
        payload = {**node_to_metadata_dict(node), NODE_ID_FIELD: node.node_id}
        json.dumps(payload, ensure_ascii=False).encode()  # fails for half a character (a lone surrogate)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"The node {node.node_id!r:.80} cannot be written as JSON ({error}); mend its text or its metadata."
        ) from error
    payload.setdefault("memory_id", node.node_id)  # what readers of the original's collections look for
    return payload


def require_own_ids(nodes: Sequence[BaseNode]) -> None:
    """Raise StoreError where an id, or the point that it is written to, stands for two different nodes."""
    by_point: dict[str, BaseNode] = {}
    for node in nodes:
        other = by_point.setdefault(point_id(node.node_id), node)
        if other is not node and (other.node_id, _content(other)) != (node.node_id, _content(node)):
            raise StoreError(f"The id {node.node_id!r:.80} stands for two different nodes; give each an id of its own.")


def _content(node: BaseNode) -> str:
    return node.get_content(MetadataMode.ALL)


def _words(node: BaseNode, sparse: SparseBM25 | None) -> dict[str, Any]:
    return {BM25: sparse.document(node.get_content(MetadataMode.EMBED))} if sparse else {}
