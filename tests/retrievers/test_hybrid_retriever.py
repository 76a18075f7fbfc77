"""FineTunedHybridRetriever: its results, and its use with LlamaIndex."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import BASE, QUERIES, TEXTS, small_memories
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.errors import AceFinetuneError, StoreError
from llama_index_ace_finetune.evaluation.systems import DEPTH
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory
from llama_index_ace_finetune.retrievers.search_settings import SearchSettings
from llama_index_ace_finetune.stores.build_index import memory_nodes
from llama_index_ace_finetune.stores.memory_store import MemoryStore

Make = Callable[..., FineTunedHybridRetriever]
NO_SHARED_WORD = "xylophone quartz"


def ids(hits: list[NodeWithScore]) -> list[str]:
    return [hit.node.node_id for hit in hits]


def how(hit: NodeWithScore) -> dict:
    assert isinstance(hit, RetrievedMemory)
    return hit.origin()


def cosines(embedding: FineTunedEmbedding, query: str) -> dict[str, float]:
    vectors = np.array(embedding.get_text_embedding_batch(list(TEXTS.values())))
    return dict(zip(TEXTS, vectors @ np.array(embedding.get_query_embedding(query)), strict=True))


def by_score(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=lambda identifier: (-scores[identifier], identifier))


def bm25(query: str) -> dict[str, float]:
    names = sorted(TEXTS)
    rows, scores = BM25Index.build([TEXTS[name] for name in names]).search(query, len(names))
    return {names[row]: float(score) for row, score in zip(rows, scores, strict=True)}


def test_class(make_retriever: Make) -> None:
    assert BaseRetriever.__name__ in [base.__name__ for base in FineTunedHybridRetriever.__mro__]
    assert isinstance(make_retriever(), BaseRetriever)


class TestModes:
    @pytest.mark.parametrize("query", QUERIES.values())
    def test_dense_is_ordered_by_cosine(self, make_retriever: Make, tuned, query: str) -> None:
        hits = make_retriever(mode="dense", similarity_top_k=5).retrieve(query)
        expected = cosines(tuned, query)
        assert ids(hits) == by_score(expected)[:5]
        assert [hit.score for hit in hits] == pytest.approx([expected[name] for name in ids(hits)], abs=1e-5)

    @pytest.mark.parametrize("query", QUERIES.values())
    def test_sparse_is_bm25(self, make_retriever: Make, query: str) -> None:
        hits = make_retriever(mode="sparse", similarity_top_k=5).retrieve(query)
        expected = bm25(query)
        assert ids(hits) == by_score(expected)[:5]
        assert [hit.score for hit in hits] == pytest.approx([expected[name] for name in ids(hits)])
        assert {how(hit)["served_by"] for hit in hits} == {"lexical"}

    @pytest.mark.parametrize("weights", [(1, 1), (0.7, 0.3), (0, 1), (1, 0)])
    @pytest.mark.parametrize("rrf_k", [60, 0])
    def test_hybrid_is_reciprocal_rank_fusion(self, make_retriever: Make, tuned, weights, rrf_k: int) -> None:
        query = QUERIES["retries"]
        legs = {"dense": by_score(cosines(tuned, query)), "sparse": by_score(bm25(query))}
        fused: dict[str, float] = {}
        for leg, weight in zip(legs.values(), weights, strict=True):
            for rank, name in enumerate(leg, start=1):
                if weight:
                    fused[name] = fused.get(name, 0) + weight / (rrf_k + rank)
        largest = sum(weights) / (rrf_k + 1)
        hits = make_retriever(weights=weights, rrf_k=rrf_k, similarity_top_k=12).retrieve(query)
        assert set(ids(hits)) == set(fused)
        for hit in hits:
            name = hit.node.node_id
            assert how(hit)["rrf_score"] == pytest.approx(fused[name])
            assert hit.score == how(hit)["scaled_score"] == pytest.approx(fused[name] / largest)
            for leg, ranking in legs.items():
                assert how(hit)[f"{leg}_rank"] == (ranking.index(name) + 1 if name in ranking else None)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    def test_first_in_both_legs_scores_one(self, make_retriever: Make) -> None:
        hit = make_retriever().retrieve(TEXTS["sandbox"])[0]
        assert hit.node.node_id == "sandbox"
        assert hit.score == 1
        assert how(hit)["dense_score"] == pytest.approx(1, abs=1e-5)

    def test_leg_depth(self, make_retriever: Make) -> None:
        query = QUERIES["flags"]
        hits = make_retriever(similarity_top_k=3, dense_top_k=5, sparse_top_k=4).retrieve(query)
        assert all((how(hit)["dense_rank"] or 1) <= 5 and (how(hit)["sparse_rank"] or 1) <= 4 for hit in hits)
        # A leg is at least as deep as the result.
        assert len(make_retriever(similarity_top_k=5, dense_top_k=2, mode="dense").retrieve(query)) == 5

    def test_leg_depth_equals_the_depth_of_weight_selection(self) -> None:
        assert SearchSettings(top_k=5).depth(None) == DEPTH
        assert SearchSettings(top_k=5, mode="dense").depth(None) == 5
        assert SearchSettings(top_k=DEPTH + 1).depth(None) == DEPTH + 1


class TestThreshold:
    def test_threshold_applies_to_dense_hits_only(self, make_retriever: Make, tuned) -> None:
        query = QUERIES["invoices"]
        expected = cosines(tuned, query)
        floor = sorted(expected.values())[-3] - 1e-4
        hits = make_retriever(threshold=floor, similarity_top_k=12).retrieve(query)
        dense = {hit.node.node_id for hit in hits if how(hit)["dense_rank"] is not None}
        sparse = {hit.node.node_id for hit in hits if how(hit)["sparse_rank"] is not None}
        assert dense == set(by_score(expected)[:3])
        assert sparse == set(bm25(query))

    def test_no_hits_above_the_threshold(self, make_retriever: Make) -> None:
        assert make_retriever(threshold=1.1, mode="dense").retrieve(QUERIES["cache"]) == []
        assert make_retriever(threshold=1.1).retrieve(NO_SHARED_WORD) == []


class TestTopK:
    def test_top_k_can_be_set(self, make_retriever: Make) -> None:
        retriever = make_retriever(similarity_top_k=2)
        assert len(retriever.retrieve(QUERIES["cache"])) == 2
        retriever.similarity_top_k = 4
        assert retriever.similarity_top_k == retriever.settings.top_k == 4
        assert len(retriever.retrieve(QUERIES["cache"])) == 4

    def test_top_k_above_the_number_of_memories(self, make_retriever: Make) -> None:
        assert len(make_retriever(similarity_top_k=100).retrieve(QUERIES["cache"])) == len(TEXTS)


class TestNoHits:
    @pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
    @pytest.mark.parametrize("query", ["", "  \n"])
    async def test_empty_query_finds_nothing(self, make_retriever: Make, mode: str, query: str) -> None:
        retriever = make_retriever(mode=mode)
        assert retriever.retrieve(query) == []
        assert await retriever.aretrieve(query) == []

    def test_memory_without_a_shared_word_is_not_a_sparse_hit(self, make_retriever: Make) -> None:
        assert make_retriever(mode="sparse").retrieve(NO_SHARED_WORD) == []
        hits = make_retriever().retrieve(NO_SHARED_WORD)
        assert {how(hit)["sparse_rank"] for hit in hits} == {None}

    def test_empty_store(self, tuned, baseline) -> None:
        with MemoryStore.create({"finetuned": _space(tuned), "baseline": _space(baseline)}) as store:
            retriever = FineTunedHybridRetriever(store, embed_model=tuned, baseline_model=baseline)
            assert retriever.retrieve(QUERIES["cache"]) == []


class TestArgumentsAreUnchanged:
    def test_query_bundle_is_unchanged_and_its_vector_ignored(self, make_retriever: Make) -> None:
        retriever = make_retriever(mode="dense")
        foreign = [0.5] * 384
        bundle = QueryBundle(QUERIES["cache"], embedding=foreign)
        assert retriever.retrieve(bundle) == retriever.retrieve(QUERIES["cache"])
        assert bundle == QueryBundle(QUERIES["cache"], embedding=foreign)
        plain = QueryBundle(QUERIES["cache"])
        retriever.retrieve(plain)
        assert plain.embedding is None

    def test_custom_embedding_strs_affect_only_the_dense_leg(self, make_retriever: Make, tuned) -> None:
        bundle = QueryBundle(QUERIES["cache"], custom_embedding_strs=[TEXTS["backup"], TEXTS["flags"]])
        mean = np.mean([tuned.get_query_embedding(text) for text in bundle.embedding_strs], axis=0)
        hits = make_retriever(similarity_top_k=12).retrieve(bundle)
        dense = {how(hit)["dense_rank"]: hit for hit in hits}
        assert {dense[1].node.node_id, dense[2].node.node_id} == {"backup", "flags"}
        vector = np.array(tuned.get_text_embedding(TEXTS[dense[1].node.node_id]))
        assert how(dense[1])["dense_score"] == pytest.approx(float(vector @ mean / np.linalg.norm(mean)), abs=1e-5)
        sparse = {how(hit)["sparse_rank"]: hit.node.node_id for hit in hits}
        assert sparse[1] == by_score(bm25(QUERIES["cache"]))[0]

    def test_results_are_copies(self, make_retriever: Make) -> None:
        retriever = make_retriever()
        first = retriever.retrieve(QUERIES["cache"])
        expected = [hit.model_copy(deep=True) for hit in first]
        for hit in first:
            hit.score = -1
            hit.node.metadata.clear()
            hit.node.set_content("changed")
        assert retriever.retrieve(QUERIES["cache"]) == expected


class TestResultFields:
    def test_fields_of_a_result(self, make_retriever: Make) -> None:
        for hit in make_retriever().retrieve(QUERIES["cache"]):
            assert set(how(hit)) == {
                "served_by", "rrf_score", "scaled_score", "dense_score", "sparse_score", "dense_rank", "sparse_rank",
                "leg_scores", "leg_ranks", "skipped_legs",
            }  # fmt: skip
            assert how(hit)["served_by"] == "finetuned"

    def test_result_fields_are_not_in_prompts_or_embed_texts(self, tuned) -> None:
        node = TextNode(id_="n", text=TEXTS["cache"], metadata={"team": "shop"})
        retriever = FineTunedHybridRetriever.from_nodes([node], model=BASE, baseline=None)
        (hit,) = retriever.retrieve(QUERIES["cache"])
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert hit.node.get_content(mode) == node.get_content(mode)
            assert "team: shop" in hit.node.get_content(mode)
        retriever.close()


class TestAsync:
    async def test_64_concurrent_calls_equal_sequential_ones(self, make_retriever: Make) -> None:
        retriever = make_retriever(similarity_top_k=4)
        queries = [f"{query} {number}" for number in range(6) for query in QUERIES.values()][:64]
        together = await asyncio.gather(*(retriever.aretrieve(query) for query in queries))
        assert retriever.served == {"finetuned": 64}
        assert together == [retriever.retrieve(query) for query in queries]

    async def test_event_loop_is_not_blocked(self, make_retriever: Make) -> None:
        retriever = make_retriever()
        await retriever.aretrieve(QUERIES["cache"])
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await retriever.aretrieve(QueryBundle("q", custom_embedding_strs=[f"{n} " * 200 for n in range(12)]))
        during = ticks
        ticking.cancel()
        assert during >= 5


class TestInLlamaIndex:
    async def test_query_engine(self, make_retriever: Make) -> None:
        engine = RetrieverQueryEngine.from_args(make_retriever(similarity_top_k=2), llm=MockLLM())
        response = engine.query(QUERIES["rotation"])
        assert TEXTS["rotation"] in str(response)  # MockLLM returns its prompt
        assert "served_by" not in str(response)
        assert response.source_nodes[0].node.node_id == "rotation"
        later = await engine.aquery(QUERIES["rotation"])
        assert ids(later.source_nodes) == ids(response.source_nodes)

    def test_query_engine_without_hits(self, make_retriever: Make) -> None:
        engine = RetrieverQueryEngine.from_args(make_retriever(mode="sparse"), llm=MockLLM())
        assert engine.query(NO_SHARED_WORD).source_nodes == []

    @pytest.mark.parametrize("use_async", [False, True])
    @pytest.mark.parametrize("mode", ["reciprocal_rerank", "relative_score", "simple"])
    def test_fusion_retriever(self, make_retriever: Make, baseline, use_async: bool, mode: str) -> None:
        other = VectorStoreIndex(memory_nodes(small_memories()), embed_model=baseline).as_retriever(similarity_top_k=3)
        fusion = QueryFusionRetriever(
            [make_retriever(), other], mode=mode, num_queries=1, use_async=use_async, similarity_top_k=4, llm=MockLLM()
        )
        assert "sandbox" in ids(fusion.retrieve(QUERIES["sandbox"]))[:2]

    def test_fusion_retriever_merges_equal_nodes(self, make_retriever: Make) -> None:
        # LlamaIndex fuses by the hash of a node's text and metadata, so nothing may be added to the nodes.
        legs = [make_retriever(mode="dense"), make_retriever(mode="sparse")]
        fusion = QueryFusionRetriever(
            legs, mode="reciprocal_rerank", num_queries=1, use_async=False, similarity_top_k=12, llm=MockLLM()
        )
        hits = fusion.retrieve(QUERIES["sandbox"])
        assert len(set(ids(hits))) == len(hits)
        firsts = [leg.retrieve(QUERIES["sandbox"])[0].node.node_id for leg in legs]
        assert firsts == ["sandbox", "sandbox"]
        assert hits[0].score == pytest.approx(2 / 60)

    def test_scaled_scores_pass_a_similarity_cutoff(self, make_retriever: Make) -> None:
        hits = make_retriever().retrieve(QUERIES["backup"])
        kept = SimilarityPostprocessor(similarity_cutoff=0.5).postprocess_nodes(hits)
        assert ids(kept)[0] == "backup"

    def test_embedding_of_another_class_can_serve(self, baseline) -> None:
        nodes = memory_nodes(small_memories())
        retriever = FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None)
        store = retriever._search.store
        other = FineTunedHybridRetriever(store, embed_model=MockEmbedding(embed_dim=384), fallback="off")
        assert len(other.retrieve(QUERIES["cache"])) == 10
        wrong = FineTunedHybridRetriever(store, embed_model=MockEmbedding(embed_dim=8), fallback="off")
        with pytest.raises(StoreError, match="has 8 dimensions"):
            wrong.retrieve(QUERIES["cache"])
        retriever.close()


class TestFromNodes:
    def test_in_a_folder(self, tmp_path: Path) -> None:
        nodes = memory_nodes(small_memories())
        retriever = FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None, path=tmp_path / "index")
        expected = ids(retriever.retrieve(QUERIES["alerts"]))
        retriever.close()
        with MemoryStore.open(path=tmp_path / "index") as store:
            again = FineTunedHybridRetriever(store, embed_model=FineTunedEmbedding(BASE))
            assert ids(again.retrieve(QUERIES["alerts"])) == expected
            assert expected[0] == "alerts"

    def test_invalid_setting_writes_no_folder(self, tmp_path: Path) -> None:
        nodes = memory_nodes(small_memories()[:2])
        with pytest.raises(AceFinetuneError, match="search mode"):
            FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None, path=tmp_path / "index", mode="best")
        assert not (tmp_path / "index").exists()


def test_memory_written_later_is_found_by_both_legs(baseline) -> None:
    retriever = FineTunedHybridRetriever.from_nodes(
        memory_nodes(small_memories()[:3]), model=BASE, baseline=None, similarity_top_k=1
    )
    text = TEXTS["sandbox"]
    assert ids(retriever.retrieve(text)) != ["sandbox"]
    store = retriever._search.store
    store.upsert([TextNode(id_="sandbox", text=text)], {"finetuned": baseline.encoder.encode_documents([text])})
    (hit,) = retriever.retrieve(text)
    assert hit.node.node_id == "sandbox"
    assert (how(hit)["dense_rank"], how(hit)["sparse_rank"]) == (1, 1)
    retriever.close()


class TestBadSettings:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mode": "best"}, "must be hybrid, dense or sparse"),
            ({"fallback": "maybe"}, "must be baseline or off"),
            ({"weights": (-1, 1)}, "two numbers of 0 or more"),
            ({"weights": (0, 0)}, "one above 0"),
            ({"weights": (1,)}, "two numbers"),
            ({"weights": (1, 1, 1)}, "two numbers"),
            ({"similarity_top_k": 0}, "at least 1"),
            ({"rrf_k": -1}, "0 or more"),
        ],
    )
    def test_invalid_settings_are_refused(self, make_retriever: Make, options: dict, message: str) -> None:
        with pytest.raises(AceFinetuneError, match=message):
            make_retriever(**options)

    def test_invalid_top_k_set_later_is_refused(self, make_retriever: Make) -> None:
        with pytest.raises(AceFinetuneError, match="at least 1"):
            make_retriever().similarity_top_k = 0


def _space(embedding: FineTunedEmbedding):
    from llama_index_ace_finetune.stores.memory_store import NamedVector

    return NamedVector(embedding.dimension, embedding.fingerprint, embedding.model_name)
