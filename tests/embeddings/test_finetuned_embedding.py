"""FineTunedEmbedding: LlamaIndex's contract of an embedding, and detection of retrained models."""

from __future__ import annotations

import asyncio
import copy
import json
import multiprocessing
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import BASE, QUERIES, TEXTS, corrupt_weights, write_tuned_model
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError

QUERY = QUERIES["uploads"]
DOCUMENTS = list(TEXTS.values())


def embed_in_worker(pickled: bytes) -> list[float]:
    embedding: FineTunedEmbedding = pickle.loads(pickled)
    return embedding.get_query_embedding(QUERY)


class TestContract:
    def test_class(self, tuned: FineTunedEmbedding) -> None:
        assert BaseEmbedding.__name__ in [base.__name__ for base in FineTunedEmbedding.__mro__]
        assert FineTunedEmbedding.class_name() == FineTunedEmbedding.__name__
        assert tuned.to_dict()["class_name"] == "FineTunedEmbedding"

    def test_vectors_are_normalised_lists_of_float(self, tuned: FineTunedEmbedding) -> None:
        for vector in (tuned.get_query_embedding(QUERY), tuned.get_text_embedding(DOCUMENTS[0])):
            assert type(vector) is list
            assert {type(value) for value in vector} == {float}
            assert len(vector) == tuned.dimension == 384
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)

    def test_equals_sentence_transformers(self, tuned: FineTunedEmbedding, tuned_model: Path) -> None:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(tuned_model), device="cpu")
        expected = model.encode_document(DOCUMENTS, normalize_embeddings=True)
        assert np.allclose(tuned.get_text_embedding_batch(DOCUMENTS), expected, atol=1e-5)
        assert np.allclose(
            tuned.get_query_embedding(QUERY), model.encode_query([QUERY], normalize_embeddings=True)[0], atol=1e-5
        )

    @pytest.mark.parametrize("batch_size", [1, 5, 100])
    def test_order_and_length_for_any_batch_size(self, tuned: FineTunedEmbedding, batch_size: int) -> None:
        texts = [*DOCUMENTS, DOCUMENTS[0], "", DOCUMENTS[3]]
        embedding = copy.deepcopy(tuned)
        embedding.embed_batch_size = batch_size
        vectors = embedding.get_text_embedding_batch(texts)
        single = [tuned.get_text_embedding(text) for text in texts]
        assert np.allclose(vectors, single, atol=1e-5)

    def test_no_texts_do_not_load_the_model(self, tuned_model: Path) -> None:
        embedding = FineTunedEmbedding(str(tuned_model))
        assert embedding.get_text_embedding_batch([]) == []
        assert embedding._encoder is None

    def test_as_a_transformation_it_embeds_the_embed_text(self, tuned: FineTunedEmbedding) -> None:
        node = TextNode(text=DOCUMENTS[0], metadata={"team": "identity", "secret": "x"})
        node.excluded_embed_metadata_keys = ["secret"]
        (embedded,) = tuned([node])
        assert embedded.embedding == tuned.get_text_embedding(node.get_content(MetadataMode.EMBED))
        assert "identity" in node.get_content(MetadataMode.EMBED)

    def test_accepts_the_fields_of_the_base_class(self, tuned_model: Path) -> None:
        from llama_index.core.callbacks import CallbackManager

        manager = CallbackManager()
        embedding = FineTunedEmbedding(
            str(tuned_model), embed_batch_size=7, num_workers=2, embeddings_cache=None, callback_manager=manager
        )
        assert (embedding.embed_batch_size, embedding.num_workers) == (7, 2)
        assert embedding.callback_manager is manager


class TestRoundTrips:
    def test_dict_and_json(self, tuned: FineTunedEmbedding) -> None:
        embedding = FineTunedEmbedding(tuned.model_name, query_prompt="find: ", truncate_dim=128, max_length=32)
        for again in (
            FineTunedEmbedding.from_dict(embedding.to_dict()),
            FineTunedEmbedding.from_json(json.dumps(embedding.to_dict())),
        ):
            assert again.to_dict() == embedding.to_dict()
            assert again.get_query_embedding(QUERY) == embedding.get_query_embedding(QUERY)

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
    def test_copies_return_the_same_vectors(self, tuned: FineTunedEmbedding, duplicate) -> None:
        again = duplicate(tuned)
        assert again is not tuned
        assert again.get_query_embedding(QUERY) == tuned.get_query_embedding(QUERY)
        assert again.get_text_embedding_batch(DOCUMENTS) == tuned.get_text_embedding_batch(DOCUMENTS)
        assert again.fingerprint == tuned.fingerprint

    def test_deepcopy_shares_weights_and_pickle_leaves_them_out(self, tuned: FineTunedEmbedding) -> None:
        tuned.get_query_embedding(QUERY)
        assert copy.deepcopy(tuned).encoder is tuned.encoder
        assert len(pickle.dumps(tuned)) < 10_000

    @pytest.mark.slow
    def test_spawned_worker_returns_the_same_vector(self, tuned: FineTunedEmbedding) -> None:
        expected = tuned.get_query_embedding(QUERY)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(embed_in_worker, (pickle.dumps(tuned),)) == expected

    def test_from_encoder_uses_the_loaded_weights(self, tuned_model: Path) -> None:
        encoder = Encoder.load(tuned_model, settings=EncoderSettings(truncate_dim=64, document_prompt="note: "))
        embedding = FineTunedEmbedding.from_encoder(encoder)
        assert embedding.encoder is encoder
        assert embedding.fingerprint == encoder.fingerprint
        assert (embedding.truncate_dim, embedding.text_prompt) == (64, "note: ")


class TestSettings:
    def test_prompts_apply_to_their_role(self, tuned: FineTunedEmbedding) -> None:
        embedding = FineTunedEmbedding(tuned.model_name, query_prompt="query: ", text_prompt="passage: ")
        query, text = embedding.get_query_embedding(QUERY), embedding.get_text_embedding(QUERY)
        assert np.allclose(query, tuned.get_query_embedding(f"query: {QUERY}"), atol=1e-5)
        assert np.allclose(text, tuned.get_text_embedding(f"passage: {QUERY}"), atol=1e-5)
        assert not np.allclose(query, text, atol=1e-3)

    def test_truncated_vectors_are_the_first_dimensions_normalised(self, tuned: FineTunedEmbedding) -> None:
        short = FineTunedEmbedding(tuned.model_name, truncate_dim=96)
        vector, full = short.get_query_embedding(QUERY), np.array(tuned.get_query_embedding(QUERY)[:96])
        assert short.dimension == len(vector) == 96
        assert np.allclose(vector, full / np.linalg.norm(full), atol=1e-5)

    def test_max_length_truncates_the_text(self, tuned: FineTunedEmbedding) -> None:
        short = FineTunedEmbedding(tuned.model_name, max_length=8)
        long = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
        assert np.allclose(short.get_text_embedding(long), short.get_text_embedding(f"{long} and more"), atol=1e-6)
        assert not np.allclose(tuned.get_text_embedding(long), tuned.get_text_embedding(f"{long} and more"), atol=1e-3)

    def test_bfloat16_is_close(self, tuned: FineTunedEmbedding) -> None:
        fast = FineTunedEmbedding(tuned.model_name, precision="bfloat16", device="cpu")
        assert np.dot(fast.get_query_embedding(QUERY), tuned.get_query_embedding(QUERY)) > 0.99

    @pytest.mark.parametrize(
        "field",
        [
            {"query_prompt": "q: "},
            {"text_prompt": "d: "},
            {"truncate_dim": 64},
            {"max_length": 16},
        ],
    )
    def test_settings_that_change_vectors_change_the_fingerprint(self, tuned: FineTunedEmbedding, field: dict) -> None:
        assert FineTunedEmbedding(tuned.model_name, **field).fingerprint != tuned.fingerprint

    def test_other_settings_do_not_change_the_fingerprint(self, tuned: FineTunedEmbedding, tmp_path: Path) -> None:
        elsewhere = shutil.copytree(tuned.model_name, tmp_path / "elsewhere")
        moved = FineTunedEmbedding(str(elsewhere), device="cpu", embed_batch_size=3)
        assert moved.fingerprint == tuned.fingerprint
        assert FineTunedEmbedding(BASE).fingerprint != tuned.fingerprint


class TestConcurrency:
    async def test_async_vectors_equal_sync_ones(self, tuned: FineTunedEmbedding) -> None:
        assert await tuned.aget_query_embedding(QUERY) == tuned.get_query_embedding(QUERY)
        assert await tuned.aget_text_embedding(DOCUMENTS[0]) == tuned.get_text_embedding(DOCUMENTS[0])
        assert await tuned.aget_text_embedding_batch(DOCUMENTS) == tuned.get_text_embedding_batch(DOCUMENTS)
        assert await tuned.aget_text_embedding_batch([]) == []

    async def test_event_loop_is_not_blocked_while_texts_are_embedded(self, tuned: FineTunedEmbedding) -> None:
        texts = [f"{number} {' '.join(DOCUMENTS)}" for number in range(32)]
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.002)
                ticks += 1

        await tuned.aget_query_embedding(QUERY)
        ticking = asyncio.create_task(tick())
        await tuned.aget_text_embedding_batch(texts)
        during = ticks
        ticking.cancel()
        assert during >= 5

    async def test_64_concurrent_calls_equal_sequential_ones(self, tuned: FineTunedEmbedding) -> None:
        texts = [f"{number} {DOCUMENTS[number % len(DOCUMENTS)]}" for number in range(64)]
        together = await asyncio.gather(*(tuned.aget_query_embedding(text) for text in texts))
        assert together == [tuned.get_query_embedding(text) for text in texts]

    def test_threads_load_the_model_once(self, tuned_model: Path) -> None:
        embedding = FineTunedEmbedding(str(tuned_model))
        barrier = threading.Barrier(4)

        def load(_: int) -> int:
            barrier.wait()
            return id(embedding.encoder)

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(load, range(4)))) == 1


class TestRetrainedModel:
    @pytest.fixture
    def folder(self, tuned_model: Path, tmp_path: Path) -> Path:
        return shutil.copytree(tuned_model, tmp_path / "model")

    def test_fingerprint_and_vectors_differ(self, folder: Path, one_layer: str) -> None:
        before = FineTunedEmbedding(str(folder))
        vector = before.get_query_embedding(QUERY)
        write_tuned_model(folder, seed=2, base=one_layer)
        after = FineTunedEmbedding(str(folder))
        assert after.fingerprint != before.fingerprint
        assert not np.allclose(after.get_query_embedding(QUERY), vector, atol=1e-3)

    def test_saved_embedding_of_the_old_model_is_refused(self, folder: Path, one_layer: str) -> None:
        before = FineTunedEmbedding(str(folder))
        saved, pickled = before.to_dict(), pickle.dumps(before)
        write_tuned_model(folder, seed=2, base=one_layer)
        with pytest.raises(ModelError, match=f"not the one that was used before.*{before.fingerprint}"):
            FineTunedEmbedding.from_dict(saved)
        with pytest.raises(ModelError, match="not the one that was used before"):
            pickle.loads(pickled)

    def test_weights_are_checked_when_they_are_loaded(self, folder: Path, one_layer: str) -> None:
        waiting = FineTunedEmbedding(str(folder))
        write_tuned_model(folder, seed=2, base=one_layer)
        with pytest.raises(ModelError, match="not the one that was used before"):
            waiting.get_query_embedding(QUERY)

    def test_loaded_weights_continue_to_serve(self, folder: Path) -> None:
        embedding = FineTunedEmbedding(str(folder))
        vector = embedding.get_query_embedding(QUERY)
        shutil.rmtree(folder)
        assert embedding.get_query_embedding(QUERY) == vector
        assert copy.deepcopy(embedding).get_query_embedding(QUERY) == vector

    def test_ingestion_cache_is_not_stale(self, folder: Path, one_layer: str) -> None:
        cache = IngestionCache()

        def ingest() -> list[float]:
            pipeline = IngestionPipeline(transformations=[FineTunedEmbedding(str(folder))], cache=cache)
            (node,) = pipeline.run(nodes=[TextNode(id_="n", text=DOCUMENTS[0])])
            assert node.embedding is not None
            return node.embedding

        before = ingest()
        assert ingest() == before
        write_tuned_model(folder, seed=2, base=one_layer)
        assert not np.allclose(ingest(), before, atol=1e-3)


class TestCache:
    """One of LlamaIndex's caches, shared by roles and models."""

    def test_vectors_are_computed_once_per_role_and_model(self, tuned: FineTunedEmbedding) -> None:
        cache = SimpleKVStore()
        embedding = FineTunedEmbedding(tuned.model_name, query_prompt="find: ", embeddings_cache=cache)
        first = embedding.get_text_embedding_batch([*DOCUMENTS, DOCUMENTS[0]])
        query = embedding.get_query_embedding(DOCUMENTS[0])
        assert query != first[0]
        held = cache.to_dict()
        assert sorted(map(len, held.values())) == [1, len(DOCUMENTS)]
        other = FineTunedEmbedding(tuned.model_name, query_prompt="find: ", embeddings_cache=cache)
        assert other.get_text_embedding_batch([*DOCUMENTS, DOCUMENTS[0]]) == first
        assert other.get_query_embedding(DOCUMENTS[0]) == query
        assert cache.to_dict() == held  # nothing was computed again
        plain = FineTunedEmbedding(tuned.model_name, embeddings_cache=cache)
        assert plain.get_query_embedding(DOCUMENTS[0]) == tuned.get_query_embedding(DOCUMENTS[0])

    async def test_async(self, tuned: FineTunedEmbedding) -> None:
        embedding = FineTunedEmbedding(tuned.model_name, embeddings_cache=SimpleKVStore())
        expected = await embedding.aget_query_embedding(QUERY)
        assert await embedding.aget_query_embedding(QUERY) == expected == tuned.get_query_embedding(QUERY)

    def test_cache_is_not_in_dicts_and_pickles(self, tuned: FineTunedEmbedding) -> None:
        embedding = FineTunedEmbedding(tuned.model_name, embeddings_cache=SimpleKVStore())
        assert json.loads(embedding.to_json())["embeddings_cache"] is None
        assert pickle.loads(pickle.dumps(embedding)).get_query_embedding(QUERY) == tuned.get_query_embedding(QUERY)


class TestErrors:
    def test_cache_of_another_class(self, tuned_model: Path) -> None:
        with pytest.raises(AceFinetuneError, match="embeddings_cache is a dict"):
            FineTunedEmbedding(str(tuned_model), embeddings_cache={})

    def test_cache_set_later_separates_roles_and_models(self, tuned: FineTunedEmbedding) -> None:
        cache = SimpleKVStore()
        text = "big uploads time out"
        embedding = FineTunedEmbedding(tuned.model_name, query_prompt="find: ")
        query, document = embedding.get_query_embedding(text), embedding.get_text_embedding(text)
        assert query != document
        for order in ("query first", "document first"):
            later = FineTunedEmbedding(tuned.model_name, query_prompt="find: ")
            later.embeddings_cache = cache if order == "query first" else SimpleKVStore()
            if order == "query first":
                assert later.get_query_embedding(text) == query
            assert later.get_text_embedding(text) == document
            assert later.get_text_embedding_batch([text]) == [document]
            assert later.get_query_embedding(text) == query
            assert later.embeddings_cache is None
        plain = FineTunedEmbedding(tuned.model_name)
        plain.embeddings_cache = cache
        assert plain.get_query_embedding(text) != query
        with pytest.raises(AceFinetuneError, match="embeddings_cache is a dict"):
            plain.embeddings_cache = {}

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"does not exist; give the folder"):
            FineTunedEmbedding(str(tmp_path / "nowhere"))

    def test_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="holds no model"):
            FineTunedEmbedding(str(tmp_path))

    def test_incomplete_copy(self, tuned_model: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(tuned_model, tmp_path / "model")
        corrupt_weights(folder)
        with pytest.raises(ModelError, match=r"model\.safetensors.*half-written"):
            FineTunedEmbedding(str(folder))

    def test_wrong_fingerprint(self, tuned_model: Path) -> None:
        with pytest.raises(ModelError, match="not the one that was used before"):
            FineTunedEmbedding(str(tuned_model), fingerprint="0" * 32)
