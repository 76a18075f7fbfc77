"""Writes by another user of the client are found, whatever method they use."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from helpers.small_stores import NAMED_VECTORS, node, unit_rows, vectors
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.retrievers.legs.lexical_leg import LexicalLeg
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.point_ids import point_id
from llama_index_ace_finetune.stores.qdrant.write_log import subscribe

AXIS = np.eye(8, dtype=np.float32)
DELETE_A = models.DeleteOperation(delete=models.PointIdsList(points=[point_id("a")]))


@pytest.fixture
def store():
    with MemoryStore.create(NAMED_VECTORS) as store:
        store.upsert([node("a", "apple"), node("b", "pear")], vectors(2))
        yield store


def test_llama_index_writes_are_found_by_both_legs(store: MemoryStore) -> None:
    theirs = QdrantVectorStore(client=store.client, collection_name=store.collection, dense_vector_name=FINETUNED)
    leg = LexicalLeg(store)
    assert leg.search("quince", 5) == []
    store.search(FINETUNED, AXIS[0].tolist(), 3)
    name = str(uuid.uuid4())
    theirs.add([TextNode(id_=name, text="quince", embedding=AXIS[0].tolist())])
    assert store.search(FINETUNED, AXIS[0].tolist(), 1) == [(name, pytest.approx(1))]
    assert [hit for hit, _ in leg.search("quince", 5)] == [name]
    assert store.get([name])[name].get_content() == "quince"
    theirs.delete_nodes([name])
    assert name not in dict(store.search(FINETUNED, AXIS[0].tolist(), 9))
    assert leg.search("quince", 5) == []


def test_bm25_leg_follows_upserts_and_deletes(store: MemoryStore) -> None:
    leg = LexicalLeg(store)
    assert [name for name, _ in leg.search("apple", 5)] == ["a"]
    index = leg._index
    store.upsert([node("a", "plum"), node("c", "apple apple"), node("0", "apple apple")], vectors(3))
    assert [name for name, _ in leg.search("apple", 5)] == ["0", "c"]
    assert [name for name, _ in leg.search("plum", 5)] == ["a"]
    store.delete(["c"])
    assert [name for name, _ in leg.search("apple", 5)] == ["0"]
    assert leg._index is index  # updated, not rebuilt


@pytest.mark.parametrize(
    "write",
    [
        lambda c, n: c.update_vectors(n, [models.PointVectors(id=point_id("a"), vector={FINETUNED: AXIS[3].tolist()})]),
        lambda c, n: c.delete(n, models.Filter(must=[models.HasIdCondition(has_id=[point_id("b")])])),
        lambda c, n: c.delete_vectors(n, [FINETUNED], [point_id("b")]),
        lambda c, n: c.delete(collection_name=n, points_selector=[point_id("b")]),
        lambda c, n: c.upsert(n, models.Batch(ids=[point_id("z")], vectors={FINETUNED: [AXIS[2].tolist()]})),
        lambda c, n: c.upload_points(n, (models.PointStruct(id=i, vector={FINETUNED: AXIS[1].tolist()}) for i in [7])),
        lambda c, n: c.batch_update_points(n, [DELETE_A]),
    ],
)  # fmt: skip
def test_any_write_is_found(store: MemoryStore, write) -> None:
    query = unit_rows(1, 8, seed=5)[0].tolist()
    store.search(FINETUNED, query, 9)
    write(store.client, store.collection)
    expected = store.client.query_points(store.collection, query, using=FINETUNED, limit=9).points
    hits = store.search(FINETUNED, query, 9)
    assert [round(score, 5) for _, score in hits] == [round(point.score, 5) for point in expected]


def test_partial_write_that_fails_is_found(store: MemoryStore) -> None:
    store.search(FINETUNED, AXIS[0].tolist(), 9)
    with pytest.raises(ValueError, match="dim"):
        store.client.upsert(store.collection, [models.PointStruct(id=1, vector={FINETUNED: [1.0]})])
    assert len(store.search(FINETUNED, AXIS[0].tolist(), 9)) == 2


def test_client_is_wrapped_once() -> None:
    client = QdrantClient(":memory:")
    first, second = subscribe(client), subscribe(client)
    first.drain(), second.drain()
    client.create_collection("c", models.VectorParams(size=2, distance=models.Distance.COSINE))
    assert first.drain() is None
    client.upsert("c", [models.PointStruct(id=3, vector=[1, 0])])
    assert first.drain() == {3}
    assert first.drain() == set()
    assert second.drain() is None
    assert (first.count, second.count) == (2, 2)
