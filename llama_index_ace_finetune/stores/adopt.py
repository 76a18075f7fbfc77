"""Take over a collection that LlamaIndex's `QdrantVectorStore` built, in place."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import MetadataMode
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.build_index import vector_spaces
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, key_of, point_id
from llama_index_ace_finetune.stores.qdrant.collections import VectorSpace, collection_metadata, is_ours, resolve_alias
from llama_index_ace_finetune.stores.qdrant.connection import told
from llama_index_ace_finetune.stores.qdrant.payload_indexes import PayloadIndexes, create_payload_indexes
from llama_index_ace_finetune.stores.qdrant.points import NodeReader, read_points
from llama_index_ace_finetune.utils.node_payload import node_in_payload

_AT_ONCE = 2048
_WRITTEN_AT_ONCE = 256
_SAMPLE = 16
_LEAST_COSINE = 0.99


def adopt(
    client: QdrantClient,
    collection: str,
    encoders: Mapping[str, Encoder],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    where: str = "the given client",
    payload_indexes: PayloadIndexes | None = None,
) -> MemoryStore:
    """Give the points of a collection the vectors of these models, beside what they hold; return it as a store.

    What LlamaIndex wrote stays, so its own store goes on reading the collection. The collection counts as ours once
    every vector is in, so an adoption that was broken off is done by calling again. One that is ours already only
    gains what points written by LlamaIndex since then lack.

    Args:
        client: holds the collection; it stays the caller's to close.
        collection: its name, or an alias of it.
        encoders: the models by the names of their vectors, "finetuned" and "baseline".
        cache: folder for vectors.
        progress: called with the number of texts just embedded.
        where: what errors call the place.
        payload_indexes: keys of the metadata that a server indexes, as `create_payload_indexes` takes them.

    Raises:
        StoreError: if the collection is missing, holds no LlamaIndex nodes or some under other ids than their own, or
            the server or client is too old. Points without a node are left out, with a warning.
    """
    if not told(where, client.collection_exists, collection):
        raise StoreError(f"There is no collection {collection!r} in {where}; give the name of one that is there.")
    collection = resolve_alias(client, collection)
    if is_ours(client, collection):
        store = MemoryStore.attach(client, collection, where=where)
        _require_node_ids(client, collection, where, only=_lacking(next(iter(store.spaces))))
        if payload_indexes:
            create_payload_indexes(client, collection, where, payload_indexes)
        _fill(store, {name: encoders[name] for name in store.spaces if name in encoders}, cache, progress)
        return store
    _require_node_ids(client, collection, where)
    create_payload_indexes(client, collection, where, payload_indexes)
    spaces = vector_spaces(encoders)
    for name, space in spaces.items():
        _add_space(client, collection, name, space, where)
    fresh = MemoryStore(client, collection, spaces, where, owns_client=False)
    for name, encoder in encoders.items():
        _require_same_model(fresh, name, encoder)
    _fill(fresh, encoders, cache, progress)
    told(where, client.update_collection, collection, metadata=collection_metadata(spaces, None))
    return MemoryStore.attach(client, collection, where=where)


def _add_space(client: QdrantClient, collection: str, name: str, space: VectorSpace, where: str) -> None:
    vectors = client.get_collection(collection).config.params.vectors
    held = vectors.get(name) if isinstance(vectors, dict) else None
    if held is not None and (held.size != space.dimension or held.distance != models.Distance.COSINE):
        raise StoreError(
            f"The collection {collection!r} in {where} has vectors {name!r} of another kind already ({held.size} "
            f"dimensions, {held.distance.value}); build an index of its texts with `ace-finetune index`."
        )
    if held is None:
        if not hasattr(client, "create_vector_name"):
            raise StoreError(
                "This qdrant-client cannot add vectors to a collection that exists; upgrade qdrant-client and server."
            )
        config = models.DenseVectorConfig(size=space.dimension, distance=models.Distance.COSINE)
        told(where, client.create_vector_name, collection, name, models.DenseVectorNameConfig(dense=config))


def _fill(store: MemoryStore, encoders: Mapping[str, Encoder], cache: Path | None, progress: Progress | None) -> None:
    """Embed the points that lack a model's vector."""
    reader = NodeReader(store.where)
    for name, encoder in encoders.items():
        if encoder.document_fingerprint != store.spaces[name].fingerprint:
            continue  # The ladder of fallbacks tells; vectors of two models must not mix.
        # The ids first: what is written while reading would change the pages.
        ids = [key_of(p.id) for p in read_points(store.client, store.collection, store.where, only=_lacking(name),
                                              with_payload=False)]  # fmt: skip
        points = read_points(store.client, store.collection, store.where, ids=ids)
        while batch := list(islice(points, _AT_ONCE)):
            held = list(reader.read(batch))
            texts = [node.get_content(MetadataMode.EMBED) for _, node in held]
            vectors = encoder.encode(texts, role="document", cache=cache, progress=progress)
            _write(store, name, [point.id for point, _ in held], vectors)


def _require_same_model(store: MemoryStore, name: str, encoder: Encoder) -> None:
    """Compare a few of the vectors that are there under the name already with the model's own."""
    held = models.Filter(must=[models.HasVectorCondition(has_vector=name)])
    points, _ = told(
        store.where, store.client.scroll, store.collection, scroll_filter=held, limit=_SAMPLE, with_vectors=[name]
    )
    if not points:
        return
    read = list(NodeReader(store.where).read(points))
    if not read:
        return
    texts = [node.get_content(MetadataMode.EMBED) for _, node in read]
    vectors: list[Any] = [point.vector for point, _ in read]
    theirs = np.array([vector[name] for vector in vectors], np.float32)
    cosines = (encoder.encode_documents(texts) * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    if cosines.min() < _LEAST_COSINE:
        raise StoreError(
            f"The vectors {name!r} in the collection {store.collection!r} in {store.where} were made by another model "
            f"than {encoder.name!r}; give that model, or build an index with `ace-finetune index`."
        )


def _require_node_ids(client: QdrantClient, collection: str, where: str, *, only: models.Filter | None = None) -> None:
    """Raise StoreError where no point holds a node, or one holds a node of another id than the point's own."""
    first: Any = None
    readable = False
    # The type and the content are all that a node is read from.
    fields = ["_node_content", "_node_type", NODE_ID_FIELD]
    for point in read_points(client, collection, where, only=only, with_payload=fields):
        first = first or point
        node = node_in_payload(point.payload, point_id=point.id)
        if node is None:
            continue
        readable = True
        if point_id(node.node_id) != str(point.id):
            raise StoreError(
                f"The point {point.id!r} in {where} holds the node {node.node_id!r:.80}, and stores find nodes by the "
                "ids of their points; build an index of the nodes with `FineTunedHybridRetriever.from_nodes`."
            )
    if first is not None and not readable and only is None:
        raise StoreError(
            f"The point {first.id!r} in {where} holds no LlamaIndex node, nor does any other; build an index of these "
            "texts with `ace-finetune index`."
        )


def _lacking(name: str) -> models.Filter:
    return models.Filter(must_not=[models.HasVectorCondition(has_vector=name)])


def _write(store: MemoryStore, name: str, ids: list[Any], vectors: np.ndarray) -> None:
    for start in range(0, len(ids), _WRITTEN_AT_ONCE):
        points = [
            models.PointVectors(id=identifier, vector={name: vector.tolist()})
            for identifier, vector in zip(
                ids[start : start + _WRITTEN_AT_ONCE], vectors[start : start + _WRITTEN_AT_ONCE], strict=True
            )
        ]
        told(store.where, store.client.update_vectors, store.collection, points)
