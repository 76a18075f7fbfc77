"""New versions of a memory set, built beside the old one and switched by an alias in one step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llama_index.core.schema import MetadataMode
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.build_index import model_encoders, vector_spaces
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.qdrant.collections import (
    create_collection,
    is_unfinished,
    mark_finished,
    resolve_alias,
)
from llama_index_ace_finetune.stores.qdrant.payload_indexes import held_payload_indexes
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25
from llama_index_ace_finetune.stores.upsert_nodes import upsert_nodes

_REPLACES: Final = "ace_finetune_replaces"


def build_version(
    store: MemoryStore,
    *,
    finetuned: Encoder,
    baseline: Encoder | None,
    cache: Path | None = None,
    progress: Progress | None = None,
    collection_options: Mapping[str, Any] | None = None,
) -> MemoryStore:
    """Embed a store's memories with new models into a collection of its own beside it; return that one.

    Nothing that is served changes until `publish` is called with the new collection's name. Both stores share the
    connection, which stays the first one's to close.
    """
    encoders = model_encoders(finetuned, baseline)
    spaces = vector_spaces(encoders)
    nodes = list(store.nodes())
    sparse = SparseBM25.of(node.get_content(MetadataMode.EMBED) for node in nodes) if store.sparse else None
    base = store.collection.rpartition(".v")[0] or store.collection
    names = (f"{base}.v{number}" for number in itertools.count(2))
    name = next(name for name in names if not store.client.collection_exists(name))
    indexes = held_payload_indexes(store.client, store.collection, store.where)
    create_collection(
        store.client,
        name,
        spaces,
        store.where,
        sparse=sparse,
        options=collection_options,
        payload_indexes=indexes,
        unfinished=True,
    )
    version = MemoryStore(store.client, name, spaces, store.where, sparse=sparse, owns_client=False)
    try:
        upsert_nodes(version, nodes, encoders, cache=cache, progress=progress)
        mark_finished(store.client, name, store.where)
    except BaseException:
        store.client.delete_collection(name)
        raise
    return version


def publish(client: QdrantClient, alias: str, collection: str) -> None:
    """Let `alias` name `collection` from now on, in one step: no search finds neither or both.

    Whoever opens the alias later gets the new version; a store that is open stays with the one it opened, whose
    vectors its models made.

    Raises:
        StoreError: if the collection does not exist or was not built to the end, or one has the alias as its own name.
    """
    names = {found.name for found in client.get_collections().collections}
    if collection not in names:
        raise StoreError(f"There is no collection {collection!r} to publish as {alias!r}; build it first.")
    if is_unfinished(client, collection, "the given client"):
        raise StoreError(f"The collection {collection!r} was not built to the end; build the version again.")
    if alias in names:
        raise StoreError(f"A collection is called {alias!r} itself; publish under another name.")
    before = resolve_alias(client, alias)
    if before not in (alias, collection):
        client.update_collection(collection, metadata={_REPLACES: before})
    _point(client, alias, collection)


def rollback(client: QdrantClient, alias: str) -> str:
    """Let `alias` name the version again that the present one replaced; return its name.

    Raises:
        StoreError: if there is no such alias, or nothing before it.
    """
    current = resolve_alias(client, alias)
    if current == alias:
        raise StoreError(f"There is no alias {alias!r} to roll back; publish a version under it first.")
    metadata = client.get_collection(current).config.metadata or {}
    before = metadata.get(_REPLACES)
    if before is None or not client.collection_exists(before):
        raise StoreError(f"The version {current!r} behind {alias!r} replaced none that is still there.")
    _point(client, alias, str(before))
    return str(before)


def _point(client: QdrantClient, alias: str, collection: str) -> None:
    create = models.CreateAlias(collection_name=collection, alias_name=alias)
    steps: list[Any] = [models.CreateAliasOperation(create_alias=create)]
    if resolve_alias(client, alias) != alias:
        steps.insert(0, models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
    client.update_collection_aliases(change_aliases_operations=steps)
