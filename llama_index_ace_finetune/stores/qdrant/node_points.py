"""Build points from nodes: the payload that LlamaIndex reads, and the vectors of each model."""

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
    """Return one point per node: its row of each `vectors[name]` [n, dimension], and its BM25 vector if `sparse`."""
    return [
        models.PointStruct(
            id=point_id(node.node_id),
            vector={name: rows[row].tolist() for name, rows in vectors.items()} | _sparse_vector(node, sparse),
            payload=payload_of(node),
        )
        for row, node in enumerate(nodes)
    ]


def payload_of(node: BaseNode) -> dict[str, Any]:
    """Return the payload that LlamaIndex's `QdrantVectorStore` writes for a node, plus its unchanged id.

    Raises:
        StoreError: for a node that cannot be written as JSON.
    """
    try:
        payload = {**node_to_metadata_dict(node), NODE_ID_FIELD: node.node_id}
        json.dumps(payload, ensure_ascii=False).encode()  # raises for a lone surrogate
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"The node {node.node_id!r:.80} cannot be written as JSON ({error}); fix its text or its metadata."
        ) from error
    payload.setdefault("memory_id", node.node_id)  # readers of the original's collections expect it
    return payload


def require_unique_ids(nodes: Sequence[BaseNode]) -> None:
    """Raise StoreError if two different nodes have the same id or the same point id."""
    by_point: dict[str, BaseNode] = {}
    for node in nodes:
        other = by_point.setdefault(point_id(node.node_id), node)
        if other is not node and (other.node_id, _content(other)) != (node.node_id, _content(node)):
            raise StoreError(f"Two different nodes have the id {node.node_id!r:.80}; give each node a unique id.")


def _content(node: BaseNode) -> str:
    return node.get_content(MetadataMode.ALL)


def _sparse_vector(node: BaseNode, sparse: SparseBM25 | None) -> dict[str, Any]:
    return {BM25: sparse.document(node.get_content(MetadataMode.EMBED))} if sparse else {}
