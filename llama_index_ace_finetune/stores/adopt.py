"""Adopt a collection of LlamaIndex's `QdrantVectorStore`, in place."""

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
from llama_index_ace_finetune.stores.build_index import named_vectors_of
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, key_of, point_id
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector, collection_metadata, is_ours, resolve_alias
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant
from llama_index_ace_finetune.stores.qdrant.payload_indexes import PayloadIndexes, create_payload_indexes
from llama_index_ace_finetune.stores.qdrant.points import NodeReader, read_points
from llama_index_ace_finetune.utils.node_payload import node_in_payload

_ENCODE_BATCH = 2048
_WRITE_BATCH = 256
_SAMPLE = 16
_MIN_COSINE = 0.99


def adopt(
    client: QdrantClient,
    collection: str,
    encoders: Mapping[str, Encoder],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    location: str = "the given client",
    payload_indexes: PayloadIndexes | None = None,
) -> MemoryStore:
    """Add the vectors of these models to the points of a collection; return it as a store.

    Everything that LlamaIndex wrote stays, so its own store can still read the collection. The collection is marked as
    ours once all vectors are written, so an interrupted adoption is completed by calling again. In a collection that
    is ours, only points that LlamaIndex has written since then get their missing vectors.

    Args:
        client: client of the collection; the caller closes it.
        collection: its name, or an alias of it.
        encoders: the models by the names of their vectors, "finetuned" and "baseline".
        cache: folder for vectors.
        progress: called with the number of texts just embedded.
        location: of the collection, as errors name it.
        payload_indexes: metadata keys that a server indexes, as in `create_payload_indexes`.

    Raises:
        StoreError: if the collection does not exist, has no LlamaIndex nodes or some under other ids than their own,
            or the server or client is too old. Points without a node are left out, with a warning.
    """
    if not call_qdrant(location, client.collection_exists, collection):
        raise StoreError(f"There is no collection {collection!r} in {location}; give the name of an existing one.")
    collection = resolve_alias(client, collection)
    if is_ours(client, collection):
        store = MemoryStore.attach(client, collection, location=location)
        _require_node_ids(client, collection, location, query_filter=_missing_vector(next(iter(store.named_vectors))))
        if payload_indexes:
            create_payload_indexes(client, collection, location, payload_indexes)
        _fill(store, {name: encoders[name] for name in store.named_vectors if name in encoders}, cache, progress)
        return store
    _require_node_ids(client, collection, location)
    create_payload_indexes(client, collection, location, payload_indexes)
    named_vectors = named_vectors_of(encoders)
    for name, named_vector in named_vectors.items():
        _add_named_vector(client, collection, name, named_vector, location)
    fresh = MemoryStore(client, collection, named_vectors, location, owns_client=False)
    for name, encoder in encoders.items():
        _require_same_model(fresh, name, encoder)
    _fill(fresh, encoders, cache, progress)
    call_qdrant(location, client.update_collection, collection, metadata=collection_metadata(named_vectors, None))
    return MemoryStore.attach(client, collection, location=location)


def _add_named_vector(
    client: QdrantClient, collection: str, name: str, named_vector: NamedVector, location: str
) -> None:
    vectors = client.get_collection(collection).config.params.vectors
    existing = vectors.get(name) if isinstance(vectors, dict) else None
    if existing is not None and (
        existing.size != named_vector.dimension or existing.distance != models.Distance.COSINE
    ):
        raise StoreError(
            f"The collection {collection!r} in {location} already has other vectors {name!r} ({existing.size} "
            f"dimensions, {existing.distance.value}); build an index of its texts with `ace-finetune index`."
        )
    if existing is None:
        if not hasattr(client, "create_vector_name"):
            raise StoreError(
                "This qdrant-client cannot add vectors to an existing collection; upgrade qdrant-client and server."
            )
        config = models.DenseVectorConfig(size=named_vector.dimension, distance=models.Distance.COSINE)
        call_qdrant(location, client.create_vector_name, collection, name, models.DenseVectorNameConfig(dense=config))


def _fill(store: MemoryStore, encoders: Mapping[str, Encoder], cache: Path | None, progress: Progress | None) -> None:
    """Embed the points that lack a model's vector."""
    reader = NodeReader(store.location)
    for name, encoder in encoders.items():
        if encoder.document_fingerprint != store.named_vectors[name].fingerprint:
            continue  # FallbackChain reports the mismatch; vectors of two models must not mix.
        # The ids first, since writing while reading would change the pages.
        missing = read_points(
            store.client, store.collection, store.location, query_filter=_missing_vector(name), with_payload=False
        )
        ids = [key_of(point.id) for point in missing]
        points = read_points(store.client, store.collection, store.location, ids=ids)
        while batch := list(islice(points, _ENCODE_BATCH)):
            existing = list(reader.read(batch))
            texts = [node.get_content(MetadataMode.EMBED) for _, node in existing]
            vectors = encoder.encode(texts, role="document", cache=cache, progress=progress)
            _write(store, name, [point.id for point, _ in existing], vectors)


def _require_same_model(store: MemoryStore, name: str, encoder: Encoder) -> None:
    """Compare a few of the existing vectors of this name with the model's own."""
    existing = models.Filter(must=[models.HasVectorCondition(has_vector=name)])
    points, _ = call_qdrant(
        store.location,
        store.client.scroll,
        store.collection,
        scroll_filter=existing,
        limit=_SAMPLE,
        with_vectors=[name],
    )
    if not points:
        return
    read = list(NodeReader(store.location).read(points))
    if not read:
        return
    texts = [node.get_content(MetadataMode.EMBED) for _, node in read]
    vectors: list[Any] = [point.vector for point, _ in read]
    theirs = np.array([vector[name] for vector in vectors], np.float32)
    cosines = (encoder.encode_documents(texts) * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    if cosines.min() < _MIN_COSINE:
        raise StoreError(
            f"The vectors {name!r} in the collection {store.collection!r} in {store.location} were not made by "
            f"{encoder.name!r}; give the model that made them, or build an index with `ace-finetune index`."
        )


def _require_node_ids(
    client: QdrantClient, collection: str, location: str, *, query_filter: models.Filter | None = None
) -> None:
    """Raise StoreError if no point holds a node, or a node's id differs from the id of its point."""
    first: Any = None
    readable = False
    # Only these fields are needed to read a node.
    fields = ["_node_content", "_node_type", NODE_ID_FIELD]
    for point in read_points(client, collection, location, query_filter=query_filter, with_payload=fields):
        first = first or point
        node = node_in_payload(point.payload, point_id=point.id)
        if node is None:
            continue
        readable = True
        if point_id(node.node_id) != str(point.id):
            raise StoreError(
                f"The point {point.id!r} in {location} holds the node {node.node_id!r:.80}, and both ids must be the "
                "same; build an index of the nodes with `FineTunedHybridRetriever.from_nodes`."
            )
    if first is not None and not readable and query_filter is None:
        raise StoreError(
            f"No point in {location} holds a LlamaIndex node (the first is {first.id!r}); build an index of the texts "
            "with `ace-finetune index`."
        )


def _missing_vector(name: str) -> models.Filter:
    return models.Filter(must_not=[models.HasVectorCondition(has_vector=name)])


def _write(store: MemoryStore, name: str, ids: list[Any], vectors: np.ndarray) -> None:
    for start in range(0, len(ids), _WRITE_BATCH):
        points = [
            models.PointVectors(id=identifier, vector={name: vector.tolist()})
            for identifier, vector in zip(
                ids[start : start + _WRITE_BATCH], vectors[start : start + _WRITE_BATCH], strict=True
            )
        ]
        call_qdrant(store.location, store.client.update_vectors, store.collection, points)
