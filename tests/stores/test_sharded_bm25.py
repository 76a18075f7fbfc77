"""BM25 of a sharded server collection: the in-process ranking, for any number of shards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from helpers.small_stores import NAMED_VECTORS, node, vectors
from qdrant_client import models

from llama_index_ace_finetune.ranking.bm25 import BM25Index, BM25Settings
from llama_index_ace_finetune.retrievers.legs.lexical_leg import LexicalLeg
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import point_id
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import BM25, SparseBM25

WORDS = [f"w{number}" for number in range(40)]


def texts(count: int, seed: int) -> list[str]:
    """Texts with Zipf-distributed words."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(WORDS) + 1)
    return [" ".join(random.choice(WORDS, random.integers(2, 12), p=weights / weights.sum())) for _ in range(count)]


QUERIES = [" ".join(text.split()[:4]) for text in texts(40, seed=99)]


class Stores:
    """Creates collections with BM25 vectors, and deletes them at the end."""

    def __init__(self, url: str) -> None:
        self.url, self.made = url, []

    def __call__(self, corpus: list[str], shards: int, settings: BM25Settings, **sparse: bool) -> MemoryStore:
        words = SparseBM25.of(corpus, settings=settings)
        if sparse:
            words = SparseBM25(words.settings, words.tokenizer, words.mean_length, **sparse)
        options = {"shard_number": shards}
        name = f"test-{uuid.uuid4().hex}"
        store = MemoryStore.create(
            NAMED_VECTORS, url=self.url, collection=name, sparse=words, collection_options=options
        )
        self.made.append(store)
        store.upsert([node(f"n{row:03}", text) for row, text in enumerate(corpus)], vectors(len(corpus)))
        return store


@pytest.fixture
def stores(qdrant_url: str) -> Iterator[Stores]:
    make = Stores(qdrant_url)
    yield make
    for store in make.made:
        store.client.delete_collection(store.collection)
        store.close()


def assert_same(store: MemoryStore, corpus: dict[str, str], settings: BM25Settings, k: int = 10) -> None:
    """The server's hits equal those of an index built from the texts, including scores and ties."""
    names = sorted(corpus)
    index = BM25Index.build([corpus[name] for name in names], settings=settings)
    for query in QUERIES:
        rows, scores = index.search(query, k)
        hits = store.search_sparse(query, k)
        assert [name for name, _ in hits] == [names[row] for row in rows], query
        assert [score for _, score in hits] == pytest.approx(scores.tolist(), rel=1e-5)


@pytest.mark.parametrize("shards", [1, 3, 8])
@pytest.mark.parametrize("variant", ["plus", "l"])
def test_ranking_equals_in_process_bm25(stores: Stores, shards: int, variant: str) -> None:
    settings, corpus = BM25Settings(variant=variant), texts(160, seed=1)
    store = stores(corpus, shards, settings)
    assert_same(store, {f"n{row:03}": text for row, text in enumerate(corpus)}, settings)


@pytest.mark.parametrize("shards", [1, 8])
def test_idf_follows_writes(stores: Stores, shards: int) -> None:
    # Without length normalisation, since the mean length is fixed when the collection is built.
    settings, corpus = BM25Settings(b=0), texts(80, seed=2)
    store = stores(corpus, shards, settings)
    existing = {f"n{row:03}": text for row, text in enumerate(corpus)}
    assert_same(store, existing, settings)
    more = {f"n{row:03}": text for row, text in enumerate(texts(40, seed=3), start=60)}
    store.upsert([node(name, text) for name, text in more.items()], vectors(len(more)))
    existing |= more
    assert_same(store, existing, settings)
    gone = sorted(existing)[::3]
    store.delete(gone)
    assert_same(store, {name: text for name, text in existing.items() if name not in gone}, settings)


def test_idf_follows_other_writers_after_refresh(stores: Stores) -> None:
    settings, corpus = BM25Settings(b=0), texts(60, seed=4)
    store = stores(corpus, 3, settings)
    store.search_sparse(QUERIES[0], 5)
    with MemoryStore.open(url=stores.url, collection=store.collection) as other:
        other.delete([f"n{row:03}" for row in range(30)])
    LexicalLeg(store).refresh()
    assert_same(store, {f"n{row:03}": text for row, text in enumerate(corpus) if row >= 30}, settings)


def test_points_of_llama_index_count_as_documents(stores: Stores) -> None:
    """They have no BM25 vector; the in-process index counts them, too."""
    store = stores(["w1 w2", "w2"], 3, BM25Settings())
    before = dict(store.search_sparse("w1", 5))
    payload = {"_node_content": node("late", "w9").to_json(), "_node_type": "TextNode"}
    store.client.upsert(store.collection, [models.PointStruct(id=point_id("late"), vector={}, payload=payload)])
    assert store.search_sparse("w1", 5)[0][1] > before["n000"]


def test_collection_with_qdrants_idf_modifier_opens(stores: Stores) -> None:
    corpus = texts(40, seed=5)
    store = stores(corpus, 1, BM25Settings(variant="l"), server_idf=True)
    existing = store.client.get_collection(store.collection).config.params.sparse_vectors
    assert existing[BM25].modifier == models.Modifier.IDF
    with MemoryStore.open(url=stores.url, collection=store.collection) as again:
        assert again.sparse.server_idf
        assert_same(again, {f"n{row:03}": text for row, text in enumerate(corpus)}, BM25Settings(variant="l"))


@pytest.mark.parametrize("count", [30, 1500])
def test_ties_at_the_kth_hit_are_ordered_by_id(stores: Stores, count: int) -> None:
    store = stores(["w1 w2"] * count, 3, BM25Settings())
    hits = store.search_sparse("w1", 5)
    if count < 1000:  # above that, the server decides which of the ties it returns
        assert [name for name, _ in hits] == [f"n{row:03}" for row in range(5)]
    assert len(hits) == 5
    assert len({score for _, score in hits}) == 1
