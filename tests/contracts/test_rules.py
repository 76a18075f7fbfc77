"""The rules that an embedding and a retriever for LlamaIndex have to keep, one test each."""

from __future__ import annotations

import copy
import json
import pickle
from importlib.metadata import requires

import pytest
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.schema import QueryBundle
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from serving_files import BASE, QUERIES, TEXTS
from small_stores import node
from words_embedding import words_retriever, words_store

from llama_index_ace_finetune import AceFinetuneError, FineTunedEmbedding
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever

NODES = [node(name, text) for name, text in TEXTS.items()]
SETTINGS = {"query_prompt": "find: ", "text_prompt": "note: ", "truncate_dim": 96, "max_length": 32}


class TestRule1RoundTrips:
    @pytest.fixture(scope="class")
    def embedding(self) -> FineTunedEmbedding:
        return FineTunedEmbedding(BASE, **SETTINGS)

    def test_weights_are_loaded_at_the_first_text(self) -> None:
        assert FineTunedEmbedding(BASE)._encoder is None

    def test_every_knob_is_a_public_field(self, embedding: FineTunedEmbedding) -> None:
        assert SETTINGS.items() <= embedding.to_dict().items()
        for name in ("model_name", "device", "precision", "trust_remote_code", "fingerprint"):
            assert name in json.loads(embedding.to_json())

    def test_vectors_are_bit_equal(self, embedding: FineTunedEmbedding) -> None:
        expected = embedding.get_text_embedding("a text")
        again = (
            FineTunedEmbedding.from_dict(embedding.to_dict()),
            pickle.loads(pickle.dumps(embedding)),
            copy.copy(embedding),
            copy.deepcopy(embedding),
        )
        assert [other.get_text_embedding("a text") for other in again] == [expected] * 4


class TestRule3Caches:
    def test_roles_and_models_do_not_share_vectors(self) -> None:
        from llama_index.core.storage.kvstore import SimpleKVStore

        cache = SimpleKVStore()
        plain = FineTunedEmbedding(BASE, embeddings_cache=cache)
        prompted = FineTunedEmbedding(BASE, query_prompt="find: ", embeddings_cache=cache)
        for embedding in (plain, prompted):
            text, query = embedding.get_text_embedding("Paris"), embedding.get_query_embedding("Paris")
            bare = FineTunedEmbedding(BASE, query_prompt=embedding.query_prompt)
            assert text == pytest.approx(bare.get_text_embedding("Paris"), abs=1e-6)
            assert query == pytest.approx(bare.get_query_embedding("Paris"), abs=1e-6)


class TestRule4Fusion:
    def test_each_leg_has_a_bundle_of_its_own(self) -> None:
        retriever = words_retriever(NODES)
        bundle = QueryBundle("backups", custom_embedding_strs=["signing keys"], embedding=[0.0] * 3)
        kept = copy.deepcopy(bundle)
        retriever.retrieve(bundle)
        assert bundle == kept

    def test_scores_are_scaled_and_each_legs_are_kept(self) -> None:
        for hit in words_retriever(NODES, rrf_k=10, weights=(2, 1)).retrieve(QUERIES["backup"]):
            expected = (2 / (10 + hit.dense_rank) if hit.dense_rank else 0) + (
                1 / (10 + hit.sparse_rank) if hit.sparse_rank else 0
            )
            assert hit.rrf_score == pytest.approx(expected)
            assert hit.score == hit.scaled_score == pytest.approx(expected / (3 / 11))

    def test_ties_go_by_id(self) -> None:
        retriever = words_retriever([node(name, "the same text") for name in "dbca"], similarity_top_k=3)
        for mode in ("dense", "sparse", "hybrid"):
            assert [hit.node.node_id for hit in retriever.search("same text", mode=mode)] == ["a", "b", "c"]

    def test_the_threshold_is_a_cosine_before_fusion(self) -> None:
        retriever = words_retriever(NODES)
        cosines = {h.node.node_id: h.score for h in retriever.search(QUERIES["backup"], mode="dense")}
        hits = retriever.search(QUERIES["backup"], threshold=0.2)
        assert {h.node.node_id for h in hits if h.dense_rank} == {n for n, c in cosines.items() if c >= 0.2}


class TestRule6Filters:
    def test_constructor_and_call(self) -> None:
        nodes = [node("a", "milk", n=1), node("b", "milk", n=2)]
        first = MetadataFilters(filters=[MetadataFilter(key="n", value=1)])
        second = MetadataFilters(filters=[MetadataFilter(key="n", value=2)])
        retriever = words_retriever(nodes, filters=first)
        assert [h.node.node_id for h in retriever.retrieve("milk")] == ["a"]
        assert [h.node.node_id for h in retriever.search("milk", filters=second)] == ["b"]


class TestRule7Failures:
    def test_failure_is_an_exception_and_no_hit_is_not(self) -> None:
        retriever = words_retriever(NODES, fallback="off")
        assert retriever.search("xylophone", mode="sparse") == []
        retriever._search.ladder._rungs[0].model.break_with(RuntimeError("dead"))  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match="dead"):
            retriever.retrieve("milk")

    def test_spaces_are_not_mixed(self) -> None:
        retriever = words_retriever(NODES)
        tuned, base = (rung.model for rung in retriever._search.ladder._rungs)
        tuned.break_with(RuntimeError("dead"))  # type: ignore[union-attr]
        (hit, *_) = retriever.search(TEXTS["backup"], mode="dense")
        expected = retriever.store.search("baseline", base.vector(TEXTS["backup"]), 1)  # type: ignore[union-attr]
        assert (hit.node.node_id, hit.score) == expected[0]


class TestRule8Guard:
    def test_a_model_of_the_same_length_is_told_apart(self) -> None:
        from words_embedding import WordsEmbedding

        with words_store(NODES) as store, pytest.raises(StoreError, match="not the one that the finetuned vectors"):
            FineTunedHybridRetriever(store, embed_model=WordsEmbedding(fingerprint="another"), fallback="off")


class TestRule10Evaluator:
    async def test_llama_index_evaluates_it(self) -> None:
        retriever = words_retriever(NODES, similarity_top_k=3)
        evaluator = RetrieverEvaluator.from_metric_names(["mrr", "hit_rate"], retriever=retriever)
        results = [await evaluator.aevaluate(query, [name]) for name, query in QUERIES.items()]
        hit_rate = sum(result.metric_vals_dict["hit_rate"] for result in results) / len(results)
        assert hit_rate > 0.8


class TestRule11Package:
    def test_floors_and_ceilings(self) -> None:
        required = [line for line in requires("llama-index-ace-finetune") or [] if "extra" not in line]
        core = next(line for line in required if line.startswith("llama-index-core"))
        assert "<0.15" in core
        assert len(required) > 5
        assert all("<" in line for line in required)


def test_errors_are_of_one_kind() -> None:
    assert issubclass(StoreError, AceFinetuneError)
