"""A cluster of Qdrant nodes: replicas, and the same answer from every node."""

from __future__ import annotations

import os
import uuid

import pytest
from helpers.small_stores import NAMED_VECTORS, node, unit_rows, vectors

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionSettings, read_settings
from llama_index_ace_finetune.stores.qdrant.server_settings import ServerSettings

CLUSTER = "ACE_FINETUNE_QDRANT_CLUSTER"


@pytest.fixture(scope="module")
def nodes() -> list[str]:
    """The addresses of the nodes."""
    if not os.environ.get(CLUSTER):
        pytest.skip(f"no Qdrant cluster: {CLUSTER} is not set (test_server_settings.py checks the requests instead)")
    return os.environ[CLUSTER].split(",")


def test_every_node_gives_the_same_answer(nodes: list[str]) -> None:
    name, query = f"test-{uuid.uuid4().hex}", unit_rows(1, 8, seed=9)[0].tolist()
    spread = CollectionSettings(shard_number=3, replication_factor=2, write_consistency_factor=2)
    settings = ServerSettings(read_consistency="all", write_ordering="strong")
    with (
        MemoryStore.create(NAMED_VECTORS) as embedded,
        MemoryStore.create(
            NAMED_VECTORS, url=nodes[0], collection=name, collection_options=spread, client_options=settings
        ) as store,
    ):
        for one in (embedded, store):
            one.upsert([node(f"n{number}") for number in range(50)], vectors(50))
        stored = read_settings(store.client, name, store.location, FINETUNED)
        assert (stored.shard_number, stored.replication_factor, stored.write_consistency_factor) == (3, 2, 2)
        expected = embedded.search(FINETUNED, query, 10)
        for url in nodes:
            with MemoryStore.open(url=url, collection=name, client_options=settings) as other:
                found = other.search(FINETUNED, query, 10)
                assert [hit for hit, _ in found] == [hit for hit, _ in expected]
        store.client.delete_collection(name)


def test_more_replicas_than_nodes_are_refused(nodes: list[str]) -> None:
    replicas = len(nodes) + 1
    with pytest.raises(StoreError, match=f"needs {replicas} nodes for its replicas, and the cluster in .* has"):
        MemoryStore.create(
            NAMED_VECTORS, url=nodes[0], collection_options=CollectionSettings(replication_factor=replicas)
        )
