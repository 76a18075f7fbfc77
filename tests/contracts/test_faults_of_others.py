"""Faults of the components that this package replaces, one test each: it has none of them."""

from __future__ import annotations

import asyncio
import copy
import time

import numpy as np
import pytest
from helpers.small_stores import node
from helpers.words_embedding import DIMENSION, words_retriever, words_store
from llama_index.core import MockEmbedding, Settings
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import IndexNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import FilterCondition, MetadataFilter, MetadataFilters

from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer, TokenizerSettings
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector
from llama_index_ace_finetune.stores.qdrant.points import read_points

NODES = [
    node("apple", "red apples on the tree", kind="fruit", tags=["x", "y"]),
    node("pear", "green pears", kind="fruit", tags=["y"]),
    node("zebra", "zebra crossing", kind="street"),
    node("bread", "banana bread with butter", kind="food"),
    node("milk", "a bottle of milk", kind="food"),
]


@pytest.fixture
def retriever():
    retriever = words_retriever(NODES)
    yield retriever
    retriever.close()


def ids(hits: list[NodeWithScore]) -> list[str]:
    return [hit.node.node_id for hit in hits]


def metadata_filter(key: str, value: object) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value)])


class TestBM25Retriever:
    def test_memory_without_shared_words_is_not_a_hit(self, retriever) -> None:
        assert retriever.search("xylophone", mode="sparse") == []
        assert all(hit.sparse_rank is None for hit in retriever.retrieve("xylophone"))
        assert ids(retriever.search("zebra", mode="sparse", similarity_top_k=5)) == ["zebra"]

    @pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
    def test_excluded_nodes_are_not_returned_if_few_match(self, retriever, mode: str) -> None:
        hits = retriever.search(
            "zebra banana milk pears", filters=metadata_filter("kind", "fruit"), similarity_top_k=5, mode=mode
        )
        assert set(ids(hits)) <= {"apple", "pear"}

    def test_word_in_every_text_is_a_match(self) -> None:
        # Okapi gives such a word an idf of 0 or less, so `score > 0` does not detect a match.
        with words_store([node("one", "milk"), node("two", "milk milk")]) as store:
            retriever = FineTunedHybridRetriever(store, embed_model=None, mode="sparse")
            assert set(ids(retriever.retrieve("milk"))) == {"one", "two"}

    def test_stemming_is_the_same_after_a_reload(self, tmp_path) -> None:
        index = BM25Index.build([n.text for n in NODES], tokenizer=Tokenizer(TokenizerSettings(stemming=False)))
        index.save(tmp_path / "index")
        again = BM25Index.load(tmp_path / "index")
        for query in ("apple", "apples"):
            assert again.search(query, 5)[0].tolist() == index.search(query, 5)[0].tolist()

    def test_empty_corpus_finds_nothing(self) -> None:
        retriever = words_retriever([])
        assert retriever.retrieve("milk") == []
        assert retriever.search("milk", mode="sparse") == retriever.search("milk", mode="dense") == []

    def test_top_k_is_not_changed(self) -> None:
        retriever = words_retriever(NODES[:2], similarity_top_k=10)
        assert len(retriever.retrieve("pears")) == 2
        assert retriever.similarity_top_k == 10

    def test_texts_without_spaces_can_be_found(self) -> None:
        retriever = words_retriever([node("jp", "東京の天気予報"), node("other", "大阪の地図")], mode="sparse")
        assert ids(retriever.retrieve("天気"))[0] == "jp"

    def test_nested_filters_work(self, retriever) -> None:
        nested = MetadataFilters(
            filters=[metadata_filter("kind", "fruit"), metadata_filter("kind", "street")], condition=FilterCondition.OR
        )
        assert set(ids(retriever.search("zebra pears milk", filters=nested))) == {"apple", "pear", "zebra"}

    def test_it_can_grow_and_shrink(self, retriever) -> None:
        rows = {"finetuned": [[1.0] * DIMENSION], "baseline": [[1.0] * DIMENSION]}
        vectors = {name: np.array(row, np.float32) for name, row in rows.items()}
        retriever.store.upsert([node("new", "quinces")], vectors)
        assert ids(retriever.search("quinces", mode="sparse")) == ["new"]
        retriever.store.delete(["new"])
        assert retriever.search("quinces", mode="sparse") == []


class TestFusionRetriever:
    def test_weights_affect_the_ranking(self, retriever) -> None:
        query = "pears butter"
        dense, sparse = (ids(retriever.search(query, mode=mode)) for mode in ("dense", "sparse"))
        assert ids(retriever.search(query, weights=(1, 0)))[: len(dense)] == dense
        assert ids(retriever.search(query, weights=(0, 1))) == sparse

    def test_weight_zero_is_not_replaced_by_a_default(self, retriever) -> None:
        for hit in retriever.search("zebra", weights=(0, 1)):
            assert hit.rrf_score == pytest.approx(1 / (60 + hit.sparse_rank))

    def test_nodes_with_equal_texts_are_separate_results(self) -> None:
        retriever = words_retriever([node("one", "red apples"), node("two", "red apples"), node("other", "milk")])
        hits = retriever.retrieve("red apples")
        assert sorted(ids(hits)[:2]) == ["one", "two"]
        for hit in hits[:2]:
            assert hit.rrf_score == pytest.approx(1 / (60 + hit.dense_rank) + 1 / (60 + hit.sparse_rank))

    def test_ranks_start_at_one(self, retriever) -> None:
        assert retriever.search("zebra crossing")[0].rrf_score == pytest.approx(2 / 61)

    def test_scores_of_each_leg_are_kept(self, retriever) -> None:
        first = retriever.retrieve("zebra crossing")[0]
        dense = retriever.search("zebra crossing", mode="dense")[0]
        sparse = retriever.search("zebra crossing", mode="sparse")[0]
        assert (first.dense_score, first.sparse_score) == (dense.score, sparse.score)

    def test_no_llm_is_needed(self, retriever) -> None:
        before = Settings._llm
        retriever.retrieve("zebra")
        assert Settings._llm is before

    def test_one_failing_leg_does_not_fail_the_search(self) -> None:
        retriever = words_retriever(NODES)
        for model in retriever._search.chain.models:
            model.break_with(RuntimeError("dead"))  # type: ignore[union-attr]
        assert ids(retriever.retrieve("zebra")) == ["zebra"]

    def test_scores_pass_a_similarity_cutoff(self, retriever) -> None:
        hits = SimilarityPostprocessor(similarity_cutoff=0.9).postprocess_nodes(retriever.retrieve("zebra crossing"))
        assert ids(hits) == ["zebra"]

    def test_results_are_not_changed_by_another_fusion(self, retriever) -> None:
        hits = retriever.retrieve("red apples")
        kept = copy.deepcopy(hits)
        again = QueryFusionRetriever([retriever], num_queries=1, use_async=False, llm=MockLLM(), similarity_top_k=5)
        again.retrieve("red apples")
        assert hits == kept


class TestQdrantStore:
    @pytest.mark.parametrize("query", ["xylophone", "zebra"])
    def test_top_k_results_if_a_leg_is_empty(self, retriever, query: str) -> None:
        assert len(retriever.search(query, similarity_top_k=1)) == 1
        assert len(retriever.search(query, similarity_top_k=1, threshold=1.1)) <= 1

    async def test_async_uses_the_same_weights_as_sync(self, retriever) -> None:
        for weights in ((0.0, 1.0), (1.0, 0.0), (0.3, 0.7)):
            sync = [(h.node.node_id, h.score) for h in retriever.search("green zebra", weights=weights)]
            found = await retriever.asearch("green zebra", weights=weights)
            assert [(h.node.node_id, h.score) for h in found] == sync

    def test_single_hit_keeps_the_scale(self, retriever) -> None:
        assert all(0 < hit.score <= 1 for hit in retriever.retrieve("zebra"))

    def test_all_nodes_are_read_without_a_limit(self) -> None:
        many = [node(f"n{number}", "milk") for number in range(10_050)]
        with words_store(many) as store:
            assert sum(1 for _ in store.nodes()) == 10_050
            store.embedded = False  # page by page, as from a server
            assert sum(1 for _ in read_points(store.client, store.collection, "here", with_payload=False)) == 10_050

    def test_empty_delete_deletes_nothing(self, retriever) -> None:
        retriever.store.delete([])
        retriever.store.delete_documents([])
        assert len(retriever.store) == len(NODES)

    @pytest.mark.parametrize("key", ["doc_id", "document_id", "ref_doc_id", "memory_id", "text", "id_", "_node_id"])
    def test_metadata_of_any_name_round_trips(self, key: str) -> None:
        with words_store([TextNode(id_="n", text="milk", metadata={key: "mine"})]) as store:
            assert store.get(["n"])["n"].metadata == {key: "mine"}
            assert next(store.nodes()).node_id == "n"

    def test_memory_id_metadata_of_a_user_can_be_filtered(self) -> None:
        retriever = words_retriever([node("n", "milk", memory_id=7), node("m", "milk", memory_id=8)])
        assert ids(retriever.search("milk", filters=metadata_filter("memory_id", 7))) == ["n"]

    def test_filter_on_lists_is_the_same_for_both_legs(self, retriever) -> None:
        for mode in ("dense", "sparse", "hybrid"):
            found = retriever.search("apples pears zebra milk", filters=metadata_filter("tags", "y"), mode=mode)
            assert set(ids(found)) == {"apple", "pear"}

    async def test_async_needs_no_second_client(self, retriever) -> None:
        assert ids(await retriever.aretrieve("zebra crossing"))[0] == "zebra"

    async def test_bm25_does_not_block_the_loop(self) -> None:
        retriever = words_retriever(NODES, sparse="server")
        start = time.perf_counter()
        task = asyncio.create_task(retriever.aretrieve("zebra " * 50_000))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.001)
            ticks += 1
        assert ids(task.result())[0] == "zebra"
        assert ticks > 3 or time.perf_counter() - start < 0.05


class TestCore:
    def test_query_bundle_is_unchanged(self, retriever) -> None:
        bundle = QueryBundle("zebra")
        retriever.retrieve(bundle)
        assert bundle.embedding is None

    def test_no_hits_is_an_empty_list(self, retriever) -> None:
        assert retriever.retrieve("") == []
        assert retriever.search("zebra", filters=metadata_filter("kind", "nothing of the kind")) == []

    def test_index_nodes_are_followed(self) -> None:
        target = TextNode(id_="target", text="the whole story")
        pointer = IndexNode(id_="pointer", text="zebra", index_id="target")
        with words_store([pointer, node("m", "milk")]) as store:
            plain = words_retriever([node("m", "milk")])
            retriever = FineTunedHybridRetriever(
                store, embed_model=None, mode="sparse",
            )  # fmt: skip
            retriever.object_map = {"target": target}
            assert ids(retriever.retrieve("zebra")) == ["target"]
            plain.close()

    @pytest.mark.parametrize("how", ["object_map", "objects"])
    def test_objects_are_given_at_construction(self, how: str) -> None:
        """As in LlamaIndex's own retrievers: the object of a found IndexNode is queried."""
        inner = words_retriever([node("inside", "zebra")])
        pointer = IndexNode(id_="pointer", text="zebra", index_id="target", obj=inner)
        given = {"object_map": {"target": inner}} if how == "object_map" else {"objects": [pointer]}
        outer = words_retriever([IndexNode(id_="pointer", text="zebra", index_id="target")], **given)
        assert [hit.node.node_id for hit in outer.retrieve("zebra")] == ["inside"]
        assert [hit.node.node_id for hit in outer.search("zebra", mode="dense")] == ["inside"]

    def test_index_node_with_score_0_is_not_the_best_hit(self) -> None:
        nodes = [node("near", "x"), IndexNode(id_="pointer", text="y", index_id="target")]
        rows = np.array([[0.8, 0.6], [1, -1] / np.sqrt(2)], np.float32)
        with MemoryStore.create({"finetuned": NamedVector(2, "f")}) as store:
            store.upsert(nodes, {"finetuned": rows})
            retriever = FineTunedHybridRetriever(store, embed_model=MockEmbedding(embed_dim=2), mode="dense")
            retriever.object_map = {"target": TextNode(id_="target", text="the whole story")}
            scores = {hit.node.node_id: hit.score for hit in retriever.retrieve("anything")}
        assert scores == {"near": pytest.approx(0.98995, abs=1e-4), "target": pytest.approx(0, abs=1e-6)}

    def test_relationships_and_excluded_keys_are_kept_by_both_legs(self) -> None:
        original = node("n", "milk", document="the source", secret="x")
        retriever = words_retriever([original])
        for mode in ("dense", "sparse"):
            (hit,) = retriever.search("milk", mode=mode)
            assert hit.node.ref_doc_id == "the source"
            assert hit.node.get_content(MetadataMode.EMBED) == "milk"
            assert hit.node == original
