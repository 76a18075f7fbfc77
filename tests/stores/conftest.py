"""Stores of every kind: flat and IVF index in this process, Qdrant's own search, and a server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.small_stores import NAMED_VECTORS, MakeStore

from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25


@pytest.fixture(params=["memory", "folder", "ivf", "embedded", "server"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes empty stores; "ivf" builds an IVF index above two memories, and "embedded" sends an
    embedded Qdrant the requests of a server."""
    made: list[MemoryStore] = []
    url = request.getfixturevalue("qdrant_url") if request.param == "server" else None

    def make(named_vectors: dict[str, NamedVector] = NAMED_VECTORS, *, sparse: SparseBM25 | None = None) -> MemoryStore:
        name = f"test-{uuid.uuid4().hex}"
        if request.param == "server":
            options = {"shard_number": 3}
            store = MemoryStore.create(
                named_vectors, url=url, collection=name, sparse=sparse, collection_options=options
            )
        else:
            path = tmp_path / name if request.param == "folder" else None
            store = MemoryStore.create(named_vectors, path=path, collection=name, sparse=sparse)
            store.embedded = request.param != "embedded"
            if request.param == "ivf":
                store.exact_up_to = 2
        made.append(store)
        return store

    yield make
    for store in made:
        if request.param == "server":
            store.client.delete_collection(store.collection)
        store.close()
