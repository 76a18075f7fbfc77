"""Collections: their named vectors, in Qdrant's configuration and in the collection's metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.stores.qdrant.collection_settings import (
    CollectionOptions,
    CollectionSettings,
    require_replicas,
)
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant
from llama_index_ace_finetune.stores.qdrant.folder_client import OURS
from llama_index_ace_finetune.stores.qdrant.payload_indexes import (
    PayloadIndexes,
    create_payload_indexes,
    payload_index_types,
)
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import BM25, SparseBM25
from llama_index_ace_finetune.stores.qdrant.token_vectors import token_metadata, token_vector_params
from llama_index_ace_finetune.stores.qdrant.write_log import is_embedded

_UNFINISHED: Final = "ace_finetune_unfinished"
_OLDEST_SERVER: Final = (1, 16)  # the first that keeps the metadata of a collection


@dataclass(frozen=True, slots=True)
class NamedVector:
    """A named vector of a collection: its dimension, its model's document fingerprint, and the model's name."""

    dimension: int
    fingerprint: str
    model: str = ""


def collection_metadata(named_vectors: Mapping[str, NamedVector], sparse: SparseBM25 | None) -> dict[str, Any]:
    """Return the metadata that `read_metadata` reads."""
    bm25 = {BM25: sparse.to_json()} if sparse else {}
    return {OURS: {**{name: asdict(named_vector) for name, named_vector in named_vectors.items()}, **bm25}}


def read_metadata(
    client: QdrantClient, collection: str, location: str, *, allow_unfinished: bool = False
) -> tuple[dict[str, NamedVector], SparseBM25 | None]:
    """Return a collection's named vectors, and the settings of its BM25 vectors if it has any.

    Raises:
        StoreError: if it does not exist, was not built by this package, has damaged metadata, or, unless
            `allow_unfinished` is set, is incomplete.
    """
    if not call_qdrant(location, client.collection_exists, collection):
        raise StoreError(f"There is no collection {collection!r} in {location}; build it with `ace-finetune index`.")
    config = call_qdrant(location, client.get_collection, collection).config
    metadata = config.metadata or {}
    if metadata.get(_UNFINISHED) and not allow_unfinished:
        raise StoreError(
            f"The collection {collection!r} in {location} was not built to the end; repeat the call or command that "
            "built it to complete it, or delete it."
        )
    found = metadata.get(OURS)
    if not isinstance(found, dict):
        raise StoreError(
            f"The collection {collection!r} in {location} was not built by this package; "
            "adopt it with `FineTunedHybridRetriever.from_vector_store`, or build one with `ace-finetune index`."
        )
    bm25 = found.get(BM25)
    try:
        named_vectors = {name: NamedVector(**named_vector) for name, named_vector in found.items() if name != BM25}
        params = (config.params.sparse_vectors or {}).get(BM25)
        server_idf = params is not None and params.modifier == models.Modifier.IDF
        return named_vectors, SparseBM25.from_json(bm25, server_idf=server_idf) if bm25 else None
    except (TypeError, KeyError, ValueError) as error:
        raise StoreError(
            f"The metadata of the vectors of {collection!r} in {location} is damaged ({error}); build the collection "
            "again with `ace-finetune index`."
        ) from error


def is_unfinished(client: QdrantClient, collection: str, location: str) -> bool:
    """Whether an existing collection is one of ours that was not built to the end."""
    return bool((call_qdrant(location, client.get_collection, collection).config.metadata or {}).get(_UNFINISHED))


def mark_finished(client: QdrantClient, collection: str, location: str) -> None:
    """Mark a collection that was created as unfinished as complete."""
    call_qdrant(location, client.update_collection, collection, metadata={_UNFINISHED: False})


def is_ours(client: QdrantClient, collection: str) -> bool:
    """Whether the collection exists and this package wrote its metadata."""
    if not client.collection_exists(collection):
        return False
    return isinstance((client.get_collection(collection).config.metadata or {}).get(OURS), dict)


def dense_config(
    named_vectors: Mapping[str, NamedVector], settings: CollectionSettings
) -> dict[str, models.VectorParams]:
    """Return Qdrant's configuration of the dense vectors."""
    return {
        name: models.VectorParams(
            size=named_vector.dimension, distance=models.Distance.COSINE, **settings.dense_options
        )
        for name, named_vector in named_vectors.items()
    }


def sparse_config(sparse: SparseBM25 | None) -> dict[str, models.SparseVectorParams] | None:
    """Return Qdrant's configuration of the BM25 vectors; None for a collection without them."""
    if sparse is None:
        return None
    return {BM25: models.SparseVectorParams(modifier=models.Modifier.IDF if sparse.server_idf else None)}


def resolve_alias(client: QdrantClient, name: str) -> str:
    """Return the collection of an alias; the name of a collection is returned as it is."""
    aliases = {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}
    return aliases.get(name, name)


def require_supported_server(client: QdrantClient, location: str) -> None:
    """Raise StoreError if the server is too old to keep a collection's metadata, which it would ignore silently."""
    version = call_qdrant(location, client.info).version
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < _OLDEST_SERVER:
        raise StoreError(
            f"The Qdrant server in {location} has version {version[:20]}, and collections need "
            f"{'.'.join(map(str, _OLDEST_SERVER))} or later; upgrade the server."
        )


def create_collection(
    client: QdrantClient,
    collection: str,
    named_vectors: Mapping[str, NamedVector],
    location: str,
    *,
    sparse: SparseBM25 | None = None,
    options: CollectionOptions | None = None,
    payload_indexes: PayloadIndexes | None = None,
    tokens: TokenEncoder | None = None,
    unfinished: bool = False,
) -> None:
    """Create an empty collection; an `unfinished` one cannot be opened until `mark_finished`.

    With `tokens`, its points can also have the token vectors of that encoder.

    Raises:
        StoreError: if a collection of that name exists, the server is too old, or its cluster has too few nodes for the
            replicas.
    """
    payload_index_types(payload_indexes)  # raises before anything is created
    settings = CollectionSettings.of(options)
    if not is_embedded(client):
        require_supported_server(client, location)
        require_replicas(client, settings, collection, location)
    if call_qdrant(location, client.collection_exists, collection):
        raise StoreError(
            f"The collection {collection!r} already exists in {location}; give another name or delete it first."
        )
    call_qdrant(
        location,
        client.create_collection,
        collection,
        vectors_config=dense_config(named_vectors, settings)
        | (token_vector_params(tokens.dimension) if tokens else {}),
        sparse_vectors_config=sparse_config(sparse),
        metadata={
            **collection_metadata(named_vectors, sparse),
            **(token_metadata(tokens.fingerprint) if tokens else {}),
            **({_UNFINISHED: True} if unfinished else {}),
        },
        **settings.create_options,
    )
    create_payload_indexes(client, collection, location, payload_indexes)
