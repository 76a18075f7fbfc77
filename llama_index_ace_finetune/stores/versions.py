"""Versions of a memory set: build a new collection beside the old one, and switch an alias in one step."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final

from llama_index.core.schema import MetadataMode
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.build_index import model_encoders, named_vectors_of
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.mirror_writes import WriteMirror
from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionOptions, read_settings
from llama_index_ace_finetune.stores.qdrant.collections import (
    create_collection,
    is_unfinished,
    mark_finished,
    resolve_alias,
)
from llama_index_ace_finetune.stores.qdrant.payload_indexes import read_payload_indexes
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25

_REPLACES: Final = "ace_finetune_replaces"


def build_version(
    store: MemoryStore,
    *,
    finetuned: Encoder,
    baseline: Encoder | None,
    cache: Path | None = None,
    progress: Progress | None = None,
    collection_options: CollectionOptions | None = None,
) -> MemoryStore:
    """Embed a store's memories with new models into a new collection beside it; return its store.

    Searches see no change until `publish` is called with the new collection's name. What is written to the store
    meanwhile, through its client, reaches the version too; use `mirror_writes` for what is written afterwards. Both
    stores share the connection, which the first one closes.

    On a server the new collection has the shards, replicas, quantization, disk settings and strict mode of the old
    one, unless `collection_options` are given.
    """
    encoders = model_encoders(finetuned, baseline)
    named_vectors = named_vectors_of(encoders)
    texts = (node.get_content(MetadataMode.EMBED) for node in store.nodes())
    sparse = SparseBM25.of(texts) if store.sparse else None
    base = store.collection.rpartition(".v")[0] or store.collection
    names = (f"{base}.v{number}" for number in itertools.count(2))
    name = next(name for name in names if not store.client.collection_exists(name))
    indexes = read_payload_indexes(store.client, store.collection, store.location)
    if collection_options is None and not store.embedded:
        vector = next(iter(store.named_vectors))
        collection_options = read_settings(store.client, store.collection, store.location, vector)
    create_collection(
        store.client,
        name,
        named_vectors,
        store.location,
        sparse=sparse,
        options=collection_options,
        payload_indexes=indexes,
        unfinished=True,
    )
    version = MemoryStore(store.client, name, named_vectors, store.location, sparse=sparse, owns_client=False)
    try:
        mirror = WriteMirror(store, version, encoders, cache=cache)
        mirror.sync(progress=progress)
        mirror.catch_up()
        mark_finished(store.client, name, store.location)
    except BaseException:
        store.client.delete_collection(name)
        raise
    return version


def mirror_writes(
    store: MemoryStore, version: MemoryStore, *, finetuned: Encoder, baseline: Encoder | None, cache: Path | None = None
) -> WriteMirror:
    """Return a mirror: in its `with` block, what is written to `store` is also written to `version`.

    The block lasts from `build_version` until no application writes to `store` any more, or, with the versions
    exchanged, for as long as a rollback is possible. The models are those of `version`.
    """
    return WriteMirror(store, version, model_encoders(finetuned, baseline), cache=cache)


def publish(client: QdrantClient, alias: str, collection: str) -> None:
    """Point `alias` to `collection`, in one atomic step.

    A store that opens the alias later gets the new version; an open store keeps the version that it opened, whose
    vectors its models made.

    Raises:
        StoreError: if the collection does not exist or was not built to the end, or a collection has the alias's name.
    """
    names = {found.name for found in client.get_collections().collections}
    if collection not in names:
        raise StoreError(f"There is no collection {collection!r} to publish as {alias!r}; build it first.")
    if is_unfinished(client, collection, "the given client"):
        raise StoreError(f"The collection {collection!r} was not built to the end; build the version again.")
    if alias in names:
        raise StoreError(f"There is a collection named {alias!r}; publish under another name.")
    before = resolve_alias(client, alias)
    if before not in (alias, collection):
        client.update_collection(collection, metadata={_REPLACES: before})
    _point(client, alias, collection)


def rollback(client: QdrantClient, alias: str) -> str:
    """Point `alias` to the version that the current one replaced; return its name.

    Raises:
        StoreError: if there is no such alias, or no earlier version.
    """
    current = resolve_alias(client, alias)
    if current == alias:
        raise StoreError(f"There is no alias {alias!r} to roll back; publish a version under it first.")
    metadata = client.get_collection(current).config.metadata or {}
    before = metadata.get(_REPLACES)
    if before is None or not client.collection_exists(before):
        raise StoreError(
            f"The version {current!r} of {alias!r} has no earlier version to roll back to, or it was deleted; publish "
            "the collection that is wanted."
        )
    _point(client, alias, str(before))
    return str(before)


def _point(client: QdrantClient, alias: str, collection: str) -> None:
    create = models.CreateAlias(collection_name=collection, alias_name=alias)
    steps: list[Any] = [models.CreateAliasOperation(create_alias=create)]
    if resolve_alias(client, alias) != alias:
        steps.insert(0, models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
    client.update_collection_aliases(change_aliases_operations=steps)
