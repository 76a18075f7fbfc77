"""The rules for an embedding and a retriever of LlamaIndex, one test class each."""

from __future__ import annotations

import copy
import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.serving_files import BASE, QUERIES, TEXTS
from helpers.small_stores import node
from helpers.words_embedding import words_retriever, words_store
from llama_index.core import Settings
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.schema import MetadataMode, NodeRelationship, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from llama_index_ace_finetune import (
    AceFinetuneError,
    FineTunedEmbedding,
    HardNegativeMiner,
    RetrievalDataset,
    SplitSettings,
    read_dataset,
    split_dataset,
)
from llama_index_ace_finetune.datasets.readers.qa_dataset import write_qa_dataset
from llama_index_ace_finetune.datasets.splits.audit import audit_split, require_clean
from llama_index_ace_finetune.datasets.splits.manifest import Split
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import LeakageError, StoreError
from llama_index_ace_finetune.mining.training_data_generator import generate_training_data
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever

NODES = [node(name, text) for name, text in TEXTS.items()]
SETTINGS = {"query_prompt": "find: ", "text_prompt": "note: ", "truncate_dim": 96, "max_length": 32}


class TestRule1RoundTrips:
    @pytest.fixture(scope="class")
    def embedding(self) -> FineTunedEmbedding:
        return FineTunedEmbedding(BASE, **SETTINGS)

    def test_weights_are_loaded_at_the_first_text(self) -> None:
        assert FineTunedEmbedding(BASE)._encoder is None

    def test_every_setting_is_a_public_field(self, embedding: FineTunedEmbedding) -> None:
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


class TestRule2Roles:
    """Queries and documents are encoded as the checkpoint defines, one call at a time; errors are raised at once."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A model with saved prompts and a linear adapter on the query vectors."""
        from llama_index_ace_finetune.training.saving.dual_encoder import with_query_adapter

        prompted = EncoderSettings(device="cpu", query_prompt="ask: ", document_prompt="note: ")
        matrix = np.eye(384) + 0.05 * np.random.default_rng(0).normal(size=(384, 384))
        path = tmp_path_factory.mktemp("towers") / "model"
        model = with_query_adapter(Encoder.load(BASE, settings=prompted).model, np.asarray(matrix, np.float32))
        model.save_pretrained(str(path), create_model_card=False)
        return path

    @pytest.fixture(scope="class")
    def stock(self, folder: Path) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), device="cpu")

    def test_saved_prompts_and_query_encoder_are_used(self, folder: Path, stock: Any) -> None:
        embedding = FineTunedEmbedding(str(folder), device="cpu")
        query, text = embedding.get_query_embedding("Paris"), embedding.get_text_embedding("Paris")
        assert np.allclose(query, stock.encode_query("Paris", normalize_embeddings=True), atol=1e-5)
        assert np.allclose(text, stock.encode_document("Paris", normalize_embeddings=True), atol=1e-5)
        assert embedding.get_text_embedding_batch(["Paris"]) == [text]
        assert not np.allclose(query, text, atol=1e-2)

    def test_prompt_is_overridden_only_if_given(self, folder: Path, stock: Any) -> None:
        one = FineTunedEmbedding(str(folder), device="cpu", query_prompt="find: ")
        none = FineTunedEmbedding(str(folder), device="cpu", query_prompt="", text_prompt="")
        for embedding, prompt in ((one, "find: "), (none, "")):
            expected = stock.encode_query("Paris", prompt=prompt, normalize_embeddings=True)
            assert np.allclose(embedding.get_query_embedding("Paris"), expected, atol=1e-5)
        kept = stock.encode_document("Paris", normalize_embeddings=True)
        assert np.allclose(one.get_text_embedding("Paris"), kept, atol=1e-5)
        assert not np.allclose(none.get_text_embedding("Paris"), kept, atol=1e-2)

    def test_model_calls_are_serialised(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        embedding = FineTunedEmbedding(str(folder), device="cpu", query_cache_size=0)
        model, inside, most, counting = embedding.encoder.model, 0, 0, threading.Lock()

        def watched(encode: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal inside, most
                with counting:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.005)
                try:
                    return encode(*arguments, **options)
                finally:
                    with counting:
                        inside -= 1

            return call

        for name in ("encode_query", "encode_document"):
            monkeypatch.setattr(model, name, watched(getattr(model, name)))
        with ThreadPoolExecutor(8) as pool:
            queries = pool.map(embedding.get_query_embedding, map(str, range(8)))
            texts = pool.map(embedding.get_text_embedding, map(str, range(8)))
            assert len([*queries, *texts]) == 16
        assert most == 1

    def test_failed_call_is_not_retried(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        embedding, calls = FineTunedEmbedding(str(folder), device="cpu"), []

        def fail(texts: list[str], **_: Any) -> None:
            calls.append(texts)
            raise RuntimeError("the same every time")

        monkeypatch.setattr(embedding.encoder.model, "encode_query", fail)
        with pytest.raises(RuntimeError, match="the same every time"):
            embedding.get_query_embedding("Paris")
        assert calls == [["Paris"]]


class TestRule3Caches:
    def test_roles_and_models_do_not_share_cached_vectors(self) -> None:
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
    def test_each_leg_has_a_separate_bundle(self) -> None:
        retriever = words_retriever(NODES)
        bundle = QueryBundle("backups", custom_embedding_strs=["signing keys"], embedding=[0.0] * 3)
        kept = copy.deepcopy(bundle)
        retriever.retrieve(bundle)
        assert bundle == kept

    def test_scores_are_scaled_and_leg_scores_are_kept(self) -> None:
        for hit in words_retriever(NODES, rrf_k=10, weights=(2, 1)).retrieve(QUERIES["backup"]):
            expected = (2 / (10 + hit.dense_rank) if hit.dense_rank else 0) + (
                1 / (10 + hit.sparse_rank) if hit.sparse_rank else 0
            )
            assert hit.rrf_score == pytest.approx(expected)
            assert hit.score == hit.scaled_score == pytest.approx(expected / (3 / 11))

    def test_ties_are_ordered_by_id(self) -> None:
        retriever = words_retriever([node(name, "the same text") for name in "dbca"], similarity_top_k=3)
        for mode in ("dense", "sparse", "hybrid"):
            assert [hit.node.node_id for hit in retriever.search("same text", mode=mode)] == ["a", "b", "c"]

    def test_threshold_is_a_cosine_before_fusion(self) -> None:
        retriever = words_retriever(NODES)
        cosines = {h.node.node_id: h.score for h in retriever.search(QUERIES["backup"], mode="dense")}
        hits = retriever.search(QUERIES["backup"], threshold=0.2)
        assert {h.node.node_id for h in hits if h.dense_rank} == {n for n, c in cosines.items() if c >= 0.2}


class TestRule5Async:
    async def test_both_legs_run_in_parallel(self) -> None:
        retriever = words_retriever(NODES)
        search, meet = retriever._search, threading.Barrier(2, timeout=20)

        def after_meeting(leg: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                meet.wait()  # fails if one leg ends before the other starts
                return leg(*arguments, **options)

            return call

        search.chain.embed = after_meeting(search.chain.embed)  # type: ignore[method-assign]
        bm25 = search.lexical["bm25"]
        bm25.search = after_meeting(bm25.search)  # type: ignore[method-assign]
        hits = await retriever.aretrieve(QUERIES["backup"])
        assert (hits[0].node.node_id, hits[0].dense_rank, hits[0].sparse_rank) == ("backup", 1, 1)

    async def test_llama_index_default_models_are_never_used(self) -> None:
        before = Settings._llm, Settings._embed_model
        retriever = FineTunedHybridRetriever.from_nodes(NODES[:2], model=BASE, baseline=None)
        await retriever.aretrieve("anything")
        retriever.close()
        assert (Settings._llm, Settings._embed_model) == before


class TestRule6Filters:
    def test_constructor_and_call(self) -> None:
        nodes = [node("a", "milk", n=1), node("b", "milk", n=2)]
        first = MetadataFilters(filters=[MetadataFilter(key="n", value=1)])
        second = MetadataFilters(filters=[MetadataFilter(key="n", value=2)])
        retriever = words_retriever(nodes, filters=first)
        assert [h.node.node_id for h in retriever.retrieve("milk")] == ["a"]
        assert [h.node.node_id for h in retriever.search("milk", filters=second)] == ["b"]


class TestRule7Failures:
    def test_failure_is_an_exception_and_no_hits_is_not(self) -> None:
        retriever = words_retriever(NODES, fallback="off")
        assert retriever.search("xylophone", mode="sparse") == []
        retriever._search.chain.models[0].break_with(RuntimeError("dead"))  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match="dead"):
            retriever.retrieve("milk")

    def test_vectors_of_models_are_not_mixed(self) -> None:
        retriever = words_retriever(NODES)
        tuned, base = (model for model in retriever._search.chain.models)
        tuned.break_with(RuntimeError("dead"))  # type: ignore[union-attr]
        (hit, *_) = retriever.search(TEXTS["backup"], mode="dense")
        expected = retriever.store.search("baseline", base.vector(TEXTS["backup"]), 1)  # type: ignore[union-attr]
        assert (hit.node.node_id, hit.score) == expected[0]


class TestRule8Guard:
    def test_model_of_the_same_dimension_is_distinguished(self) -> None:
        from helpers.words_embedding import WordsEmbedding

        with words_store(NODES) as store, pytest.raises(StoreError, match="not the one that made"):
            FineTunedHybridRetriever(store, embed_model=WordsEmbedding(fingerprint="another"), fallback="off")


BOTH = "what runs every night, and what after an import?"
COPY = TEXTS["backup"].replace("Nightly", "The nightly")


class TestRule9Data:
    @pytest.fixture(scope="class")
    def nodes(self) -> list[TextNode]:
        """Three notes per source document, with metadata that LlamaIndex embeds, and a near-duplicate of one."""
        made = []
        for number, (name, text) in enumerate([*TEXTS.items(), ("copy", COPY)]):
            one = TextNode(id_=name, text=text, metadata={"team": "platform", "secret": "x"})
            one.excluded_embed_metadata_keys = ["secret"]
            one.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=f"document {number // 3}")
            made.append(one)
        return made

    @pytest.fixture(scope="class")
    def dataset(self, nodes: list[TextNode]) -> RetrievalDataset:
        return read_dataset(
            nodes, queries={**{text: [name] for name, text in QUERIES.items()}, BOTH: ["backup", "cache"]}
        )

    @pytest.fixture(scope="class")
    def split(self, dataset: RetrievalDataset) -> Split:
        settings = SplitSettings(train=0.5, dev=0.25, test=0.25, group_field="ref_doc_id")
        return split_dataset(dataset, settings=settings)

    @pytest.fixture(scope="class")
    def data(self, dataset: RetrievalDataset, split: Split, minilm: Encoder) -> TrainingData:
        return generate_training_data(dataset, split, HardNegativeMiner(encoder=minilm), num_negatives=4)

    def test_llama_indexs_json_is_read_and_written(self, tmp_path: Path) -> None:
        theirs = {
            "queries": {"q1": "where do backups go?", "q2": "stale prices"},
            "corpus": {"n1": "Backups go to the cold bucket.", "n2": "Flush the cache.", "n3": "Nothing."},
            "relevant_docs": {"q1": ["n1"], "q2": ["n1", "n2"]},
            "mode": "text",
        }
        (tmp_path / "theirs.json").write_text(json.dumps(theirs), encoding="utf-8")
        dataset = read_dataset(tmp_path / "theirs.json")
        assert (dataset.relevant("q1"), dataset.relevant("q2")) == ({"n1"}, {"n1", "n2"})
        write_qa_dataset(dataset, tmp_path / "ours.json")
        assert json.loads((tmp_path / "ours.json").read_text(encoding="utf-8")) == theirs

    def test_texts_are_the_embed_texts(
        self, nodes: list[TextNode], dataset: RetrievalDataset, data: TrainingData
    ) -> None:
        for one in nodes:
            text = one.get_content(MetadataMode.EMBED)
            assert "platform" in text
            assert dataset.memories[one.node_id].text == data.memories[one.node_id] == text

    def test_parts_share_no_source_document_and_leaks_are_reported(
        self, dataset: RetrievalDataset, split: Split
    ) -> None:
        documents = [
            {
                dataset.memories[answer].metadata["ref_doc_id"]
                for i in split.part(part)
                for answer in dataset.relevant(i)
            }
            for part in ("train", "dev", "test")
        ]
        assert all(documents)
        assert sum(map(len, documents)) == len(set.union(*documents))
        require_clean(audit_split(dataset, split))
        parts = {"train": [*split.train, split.test[0]], "dev": split.dev, "test": split.test[1:]}
        leaking = Split.of(dataset, parts, split.settings)
        with pytest.raises(LeakageError):
            require_clean(audit_split(dataset, leaking))

    def test_all_positives_are_kept_and_no_negative_is_one(
        self, dataset: RetrievalDataset, split: Split, data: TrainingData
    ) -> None:
        positives = {one.query: set(one.positive_ids) for one in data.examples}
        held_out = {answer for i in split.test for answer in dataset.relevant(i)}
        assert positives.get(BOTH, {"backup", "cache"}) == {"backup", "cache"}
        assert any(one.negative_ids for one in data.examples)
        for one in data.examples:
            right = dataset.relevant(one.query_id)
            assert set(one.positive_ids) == right
            wrong = set(one.negative_ids)
            assert wrong.isdisjoint(right | held_out)
            # A near-duplicate of a positive counts as positive.
            assert "backup" not in right or "copy" not in wrong

    def test_batch_has_unique_texts_and_no_positive_as_a_negative(self, data: TrainingData) -> None:
        from llama_index_ace_finetune.training.data.batches import POSITIVE, BatchCollator
        from llama_index_ace_finetune.training.data.examples import index_examples

        examples = index_examples(data, data.examples)
        batch = BatchCollator(dict, examples, hard_negatives=4, query_prompt="", document_prompt="")
        documents, targets = batch.select(list(range(len(examples.queries))))
        assert len({examples.corpus[row] for row in documents}) == len(documents)
        for query, row in enumerate(targets):
            right = {documents[column] for column in np.flatnonzero(row == POSITIVE)}
            assert right == set(examples.relevant[query].tolist()) & set(documents)
            assert right


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


def test_errors_have_one_base_class() -> None:
    assert issubclass(StoreError, AceFinetuneError)
