"""A store by gRPC gives the results of an embedded store, and its messages have the settings."""

from __future__ import annotations

import pytest
from helpers.grpc_server import GrpcServer
from helpers.small_stores import NAMED_VECTORS, node, unit_rows, vectors
from qdrant_client import grpc as wire

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionSettings
from llama_index_ace_finetune.stores.qdrant.filters import qdrant_filter
from llama_index_ace_finetune.stores.qdrant.server_settings import ServerSettings
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25

TEXTS = {"a": "red apples", "b": "red paint", "c": "green pears", "d": "old red doors"}
NODES = [node(name, text, document=f"doc {name}") for name, text in TEXTS.items()]
QUERY = unit_rows(1, 8, seed=9)[0].tolist()


def test_results_of_an_embedded_store() -> None:
    sparse = SparseBM25.of(TEXTS.values())
    settings = {"prefer_grpc": True, "read_consistency": "all", "write_ordering": "medium", "batch_size": 3}
    collection = CollectionSettings(shard_number=2, vectors_on_disk=True, quantization="binary")
    with GrpcServer() as server, MemoryStore.create(NAMED_VECTORS, sparse=sparse) as embedded:
        remote = ServerSettings(grpc_port=server.port, **settings)
        with MemoryStore.create(
            NAMED_VECTORS, url="http://127.0.0.1:9", sparse=sparse, client_options=remote, collection_options=collection
        ) as store:
            for one in (store, embedded):
                one.upsert(NODES, vectors(4))
                one.delete(["d"])
            only = qdrant_filter(doc_ids=["doc a", "doc c"])
            for query_filter in (None, only):
                assert store.search(FINETUNED, QUERY, 3, query_filter=query_filter) == embedded.search(
                    FINETUNED, QUERY, 3, query_filter=query_filter
                )
            names, scores = zip(*store.search_sparse("red", 3), strict=True)
            assert (names, scores) == tuple(zip(*embedded.search_sparse("red", 3), strict=True))
            assert (len(store), store.get(["b"])["b"].get_content()) == (3, "red paint")
        reopened = MemoryStore.open(url="http://127.0.0.1:9", client_options=remote)
        assert reopened.named_vectors == NAMED_VECTORS
        reopened.close()
        created = server.sent("Create")[0]
        assert created.shard_number == 2
        assert {vector.on_disk for vector in created.vectors_config.params_map.map.values()} == {True}
        assert [len(sent.points) for sent in server.sent("Upsert")] == [3, 1]
        assert {(sent.wait, sent.ordering.type) for sent in server.sent("Upsert")} == {
            (True, wire.WriteOrderingType.Medium)
        }
        assert {sent.read_consistency.type for sent in server.sent("QueryBatch")} == {wire.ReadConsistencyType.All}


def test_unreachable() -> None:
    settings = ServerSettings(prefer_grpc=True, grpc_port=9, timeout=1)
    with pytest.raises(StoreError, match=r"'http://127\.0\.0\.1:9' (cannot be reached|did not answer in time)"):
        MemoryStore.open(url="http://127.0.0.1:9", client_options=settings)
