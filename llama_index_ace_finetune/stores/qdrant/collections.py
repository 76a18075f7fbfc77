"""Which vectors a collection holds, as Qdrant is told and as the collection's metadata keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.qdrant.connection import told
from llama_index_ace_finetune.stores.qdrant.folder_client import OURS
from llama_index_ace_finetune.stores.qdrant.payload_indexes import (
    PayloadIndexes,
    create_payload_indexes,
    payload_index_types,
)
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import BM25, SparseBM25

_UNFINISHED: Final = "ace_finetune_unfinished"


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """The vectors of one model in a collection: their length, its fingerprint of documents, and its name."""

    dimension: int
    fingerprint: str
    model: str = ""


def collection_metadata(spaces: Mapping[str, VectorSpace], sparse: SparseBM25 | None) -> dict[str, Any]:
    """Return what `read_metadata` reads."""
    words = {BM25: sparse.to_json()} if sparse else {}
    return {OURS: {**{name: asdict(space) for name, space in spaces.items()}, **words}}


def read_metadata(
    client: QdrantClient, collection: str, where: str, *, unfinished_too: bool = False
) -> tuple[dict[str, VectorSpace], SparseBM25 | None]:
    """Return a collection's spaces, and how its BM25 vectors were made where it has any.

    Raises:
        StoreError: if it is not there, was not built by this package, its record is damaged, or, unless
            `unfinished_too` is on, it was not built to the end.
    """
    if not told(where, client.collection_exists, collection):
        raise StoreError(f"There is no collection {collection!r} in {where}; build it with `ace-finetune index`.")
    config = told(where, client.get_collection, collection).config
    metadata = config.metadata or {}
    if metadata.get(_UNFINISHED) and not unfinished_too:
        raise StoreError(
            f"The collection {collection!r} in {where} was not built to the end; repeat what built it, which completes "
            "it, or delete it."
        )
    found = metadata.get(OURS)
    if not isinstance(found, dict):
        raise StoreError(
            f"The collection {collection!r} in {where} was not built by this package; "
            "adopt it with `FineTunedHybridRetriever.from_vector_store`, or build one with `ace-finetune index`."
        )
    words = found.get(BM25)
    try:
        spaces = {name: VectorSpace(**space) for name, space in found.items() if name != BM25}
        held = (config.params.sparse_vectors or {}).get(BM25)
        server_idf = held is not None and held.modifier == models.Modifier.IDF
        return spaces, SparseBM25.from_json(words, server_idf=server_idf) if words else None
    except (TypeError, KeyError, ValueError) as error:
        raise StoreError(
            f"The record of the vectors of {collection!r} in {where} is damaged ({error}); build the collection anew "
            "with `ace-finetune index`."
        ) from error


def is_unfinished(client: QdrantClient, collection: str, where: str) -> bool:
    """Whether a collection that exists is one of ours that was not built to the end."""
    return bool((told(where, client.get_collection, collection).config.metadata or {}).get(_UNFINISHED))


def mark_finished(client: QdrantClient, collection: str, where: str) -> None:
    """Have a collection that was created as unfinished count as whole."""
    told(where, client.update_collection, collection, metadata={_UNFINISHED: False})


def is_ours(client: QdrantClient, collection: str) -> bool:
    """Whether the collection exists and this package wrote its metadata."""
    if not client.collection_exists(collection):
        return False
    return isinstance((client.get_collection(collection).config.metadata or {}).get(OURS), dict)


def dense_config(spaces: Mapping[str, VectorSpace]) -> dict[str, models.VectorParams]:
    """Return Qdrant's settings of the dense vectors."""
    return {
        name: models.VectorParams(size=space.dimension, distance=models.Distance.COSINE)
        for name, space in spaces.items()
    }


def sparse_config(sparse: SparseBM25 | None) -> dict[str, models.SparseVectorParams] | None:
    """Return Qdrant's settings of the BM25 vectors; None for a collection without."""
    if sparse is None:
        return None
    return {BM25: models.SparseVectorParams(modifier=models.Modifier.IDF if sparse.server_idf else None)}


def resolve_alias(client: QdrantClient, name: str) -> str:
    """Return the collection behind an alias; a collection's own name as it is."""
    aliases = {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}
    return aliases.get(name, name)


def create_collection(
    client: QdrantClient,
    collection: str,
    spaces: Mapping[str, VectorSpace],
    where: str,
    *,
    sparse: SparseBM25 | None = None,
    options: Mapping[str, Any] | None = None,
    payload_indexes: PayloadIndexes | None = None,
    unfinished: bool = False,
) -> None:
    """Make an empty collection of ours; one that is `unfinished` is not opened before `mark_finished`.

    Raises:
        StoreError: if there is one of that name.
    """
    payload_index_types(payload_indexes)  # before anything is made
    if told(where, client.collection_exists, collection):
        raise StoreError(
            f"The collection {collection!r} exists already in {where}; give another name or delete it first."
        )
    told(
        where,
        client.create_collection,
        collection,
        vectors_config=dense_config(spaces),
        sparse_vectors_config=sparse_config(sparse),
        metadata={**collection_metadata(spaces, sparse), **({_UNFINISHED: True} if unfinished else {})},
        **(options or {}),
    )
    create_payload_indexes(client, collection, where, payload_indexes)
