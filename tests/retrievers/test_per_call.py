"""Options per call, batches, and the server's BM25, compared with plain calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from helpers.small_stores import node
from helpers.words_embedding import tuned_and_base, words_retriever
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from llama_index_ace_finetune.errors import AceFinetuneError, StoreError
from llama_index_ace_finetune.ranking.bm25 import BM25Settings

WORDS = [f"word{number}" for number in range(60)]


def made_up(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 8)) for _ in range(count)]


NODES = [
    node(f"n{number:03}", text, document=f"doc {number % 10}", parity=number % 2)
    for number, text in enumerate(made_up(300))
]
EVEN = MetadataFilters(filters=[MetadataFilter(key="parity", value=0)])
QUERIES = made_up(64, seed=1)


@pytest.fixture(scope="module")
def retriever():
    retriever = words_retriever(NODES, similarity_top_k=5, sparse="server")
    local = retriever.as_retriever()
    yield local
    retriever.close()


@pytest.fixture(scope="module")
def in_process():
    retriever = words_retriever(NODES, similarity_top_k=5)
    yield retriever
    retriever.close()


def seen(hits) -> list[tuple]:
    return [(hit.node.node_id, round(hit.score, 5), hit.dense_rank, hit.sparse_rank, hit.served_by) for hit in hits]


class TestPerCall:
    @pytest.mark.parametrize("which", ["retriever", "in_process"])
    @pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
    def test_filters(self, request: pytest.FixtureRequest, which: str, mode: str) -> None:
        retriever = request.getfixturevalue(which)
        hits = retriever.search(QUERIES[0], filters=EVEN, mode=mode, similarity_top_k=20)
        assert len(hits) == 20
        assert {hit.node.metadata["parity"] for hit in hits} == {0}
        assert {hit.node.metadata["parity"] for hit in retriever.search(QUERIES[0], similarity_top_k=50)} == {0, 1}
        hits = retriever.search(QUERIES[0], doc_ids=["doc 3"], filters=EVEN, mode=mode)
        assert hits == []
        hits = retriever.search(QUERIES[0], node_ids=["n005", "n006"], mode=mode)
        assert {hit.node.node_id for hit in hits} <= {"n005", "n006"}

    def test_filters_at_construction_can_be_changed_per_call(self, in_process) -> None:
        even = in_process.as_retriever(filters=EVEN)
        assert seen(even.retrieve(QUERIES[1])) == seen(in_process.search(QUERIES[1], filters=EVEN))
        assert seen(even.search(QUERIES[1], filters=None)) == seen(in_process.retrieve(QUERIES[1]))
        assert even.settings.filters is EVEN
        assert in_process.settings.filters is None

    def test_as_retriever_shares_store_models_and_counters(self, in_process) -> None:
        sibling = in_process.as_retriever(similarity_top_k=2, weights=(1, 0))
        before = in_process.served["finetuned"]
        assert len(sibling.retrieve(QUERIES[0])) == 2
        assert in_process.served["finetuned"] == before + 1
        assert in_process.similarity_top_k == 5
        assert sibling.store is in_process.store

    async def test_async(self, in_process) -> None:
        hits = await in_process.asearch(QUERIES[2], filters=EVEN, threshold=0.2)
        assert seen(hits) == seen(in_process.search(QUERIES[2], filters=EVEN, threshold=0.2))

    def test_unknown_settings(self, in_process) -> None:
        with pytest.raises(AceFinetuneError, match="no option 'top_p'"):
            in_process.search("x", top_p=3)
        with pytest.raises(AceFinetuneError, match="at least 1"):
            in_process.search("x", similarity_top_k=0)


class TestBatch:
    @pytest.mark.parametrize("which", ["retriever", "in_process"])
    @pytest.mark.parametrize("changes", [{}, {"filters": EVEN}, {"mode": "dense"}, {"mode": "sparse"}])
    async def test_batch_equals_single_searches(self, request, which: str, changes: dict) -> None:
        retriever = request.getfixturevalue(which)
        queries = [*QUERIES[:20], "", "xylophone", QUERIES[0]]
        expected = [seen(retriever.search(query, **changes)) for query in queries]
        assert [seen(hits) for hits in retriever.retrieve_batch(queries, **changes)] == expected
        assert [seen(hits) for hits in await retriever.aretrieve_batch(queries, **changes)] == expected
        assert retriever.retrieve_batch([]) == []

    def test_queries_do_not_share_nodes(self, in_process) -> None:
        one, other = in_process.retrieve_batch([QUERIES[0]] * 2)
        assert [hit.node for hit in one] == [hit.node for hit in other]
        assert all(a.node is not b.node for a, b in zip(one, other, strict=True))


class TestServerBM25:
    def test_same_top_results_as_in_process(self, retriever, in_process) -> None:
        # With variant l the weights are equal; with plus the idf differs a little.
        overlaps, firsts = [], []
        for query in QUERIES:
            server = [hit.node.node_id for hit in retriever.search(query, mode="sparse")]
            local = [hit.node.node_id for hit in in_process.search(query, mode="sparse")]
            overlaps.append(len({*server} & {*local}) / 5)
            firsts.append(server[0] == local[0])
        assert np.mean(overlaps) > 0.97
        assert np.mean(firsts) > 0.97

    def test_same_results_if_the_formula_is_the_same(self) -> None:
        from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
        from llama_index_ace_finetune.stores.memory_store import MemoryStore
        from llama_index_ace_finetune.stores.qdrant.collections import NamedVector
        from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25

        settings, (tuned, _) = BM25Settings(variant="l"), tuned_and_base()
        sparse = SparseBM25.of([n.text for n in NODES], settings=settings)
        with MemoryStore.create({"finetuned": NamedVector(64, tuned.fingerprint)}, sparse=sparse) as store:
            store.upsert(NODES, {"finetuned": np.array([tuned.vector(n.text) for n in NODES], np.float32)})
            both = [
                FineTunedHybridRetriever(store, embed_model=tuned, sparse=location, bm25=settings)
                for location in ("server", "in_process")
            ]
            for query in QUERIES[:20]:
                assert seen(both[0].retrieve(query)) == seen(both[1].retrieve(query))

    def test_store_without_bm25_vectors_is_refused(self, in_process) -> None:
        from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever

        with pytest.raises(StoreError, match="holds no BM25 vectors"):
            FineTunedHybridRetriever(in_process.store, embed_model=tuned_and_base()[0], sparse="server")


@asynccontextmanager
async def stalls() -> AsyncIterator[list[float]]:
    """Collect the delays of the event loop, beyond a millisecond."""
    found: list[float] = []

    async def tick() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            found.append(time.perf_counter() - start - 0.001)

    ticking = asyncio.create_task(tick())
    try:
        yield found
    finally:
        ticking.cancel()


class TestConcurrency:
    @pytest.mark.parametrize("which", ["retriever", "in_process"])
    async def test_64_concurrent_searches_do_not_block_the_loop_and_equal_sequential_ones(
        self, request, which: str
    ) -> None:
        retriever = request.getfixturevalue(which)
        expected = [seen(retriever.retrieve(query)) for query in QUERIES]
        longest = []
        for _ in range(5):
            async with stalls() as waits:
                found = await asyncio.gather(*(retriever.aretrieve(query) for query in QUERIES))
            assert [seen(hits) for hits in found] == expected
            assert len(waits) >= 3
            longest.append(max(waits))
        # Other processes may delay the loop, so the best of several measurements counts.
        assert min(longest) < 0.05

    async def test_searches_that_arrive_together_do_not_wait_for_each_other(
        self, in_process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        search, under_way, most = in_process._search, 0, 0
        begin, end = search._models.search, search._results

        def begins(*arguments: object) -> object:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            return begin(*arguments)

        def ends(*arguments: object) -> object:
            nonlocal under_way
            found = end(*arguments)
            under_way -= 1
            return found

        monkeypatch.setattr(search._models, "search", begins)
        monkeypatch.setattr(search, "_results", ends)
        await asyncio.gather(*(in_process.aretrieve(query) for query in QUERIES))
        assert (under_way, most) == (0, 2)

    def test_searches_of_several_event_loops(self, in_process) -> None:
        expected = [seen(in_process.retrieve(query)) for query in QUERIES[:6]]

        async def all_of_them() -> list[list[tuple]]:
            return [seen(hits) for hits in await asyncio.gather(*(in_process.aretrieve(q) for q in QUERIES[:6]))]

        assert [asyncio.run(all_of_them()) for _ in range(2)] == [expected] * 2

    async def test_slow_model_does_not_block_the_loop(self) -> None:
        retriever = words_retriever(NODES[:20])
        retriever._search.chain.models[0].break_with(delay=0.15)
        start = time.perf_counter()
        async with stalls() as waits:
            await asyncio.gather(*(retriever.aretrieve(query) for query in QUERIES[:4]))
        assert time.perf_counter() - start < 4 * 0.15  # they ran in parallel
        assert float(np.percentile(waits, 95)) < 0.05
        retriever.close()


class TestUnusualQueries:
    @pytest.mark.parametrize("which", ["retriever", "in_process"])
    @pytest.mark.parametrize(
        "query", ["word1 " * 20_000, "word1 \ud800", "word1 \x00\u202e", "ＷＯＲＤ１ word1", "word1 🧭" * 9]
    )
    async def test_unusual_queries_are_searched(self, request, which: str, query: str) -> None:
        retriever = request.getfixturevalue(which)
        hits = retriever.retrieve(query)
        assert len(hits) == 5
        assert seen(await retriever.aretrieve(query)) == seen(hits)


def test_reread_is_a_deprecated_name_of_refresh(in_process) -> None:
    for holder in (in_process, in_process.store):
        with pytest.warns(DeprecationWarning, match=f"{type(holder).__name__}.reread is deprecated; use refresh"):
            holder.reread()
    assert len(in_process.retrieve(QUERIES[0])) == 5
