from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.training.modes.query_encoder import apply_adapter
from llama_index_ace_finetune.training.saving.dual_encoder import dual_encoder, with_query_adapter

TEXTS = ["restart the worker", "Retry with a longer timeout when the queue is full. " * 4, "?"]
CPU = EncoderSettings(device="cpu")
PROMPTED = EncoderSettings(device="cpu", query_prompt="query: ", document_prompt="passage: ")


@pytest.fixture(scope="module")
def prompted() -> Encoder:
    """The base with prompts, which the saved folder must keep."""
    return Encoder.load(DEFAULT_BASE_MODEL, settings=PROMPTED)


@pytest.fixture(scope="module")
def query_encoder() -> SentenceTransformer:
    """A query encoder that differs from the base."""
    model = Encoder.load(DEFAULT_BASE_MODEL, settings=PROMPTED).model
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.02)
    return model


@pytest.fixture(scope="module")
def matrix() -> NDArray[np.float32]:
    return np.asarray(np.eye(384) + 0.03 * np.random.default_rng(0).normal(size=(384, 384)), np.float32)


@pytest.fixture(scope="module", params=["linear", "queries", "queries and matrix"])
def folder(
    request: pytest.FixtureRequest,
    prompted: Encoder,
    query_encoder: SentenceTransformer,
    matrix: NDArray[np.float32],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[SentenceTransformer, Path]:
    builders: dict[str, Callable[[], SentenceTransformer]] = {
        "linear": lambda: with_query_adapter(prompted.model, matrix),
        "queries": lambda: dual_encoder(query_encoder, prompted.model),
        "queries and matrix": lambda: dual_encoder(query_encoder, prompted.model, matrix),
    }
    model = builders[request.param]()
    path = tmp_path_factory.mktemp("dual") / "model"
    model.save_pretrained(str(path), create_model_card=False, safe_serialization=True)
    return model, path


def test_saved_folder_gives_the_vectors_of_the_model_in_memory(
    folder: tuple[SentenceTransformer, Path], prompted: Encoder
) -> None:
    model, path = folder
    loaded = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    np.testing.assert_array_equal(loaded.encode_query(TEXTS), model.encode_query(TEXTS))
    documents = prompted.model.encode_document(TEXTS)
    np.testing.assert_array_equal(model.encode_document(TEXTS), documents)
    np.testing.assert_array_equal(loaded.encode_document(TEXTS), documents)
    # Without a role, one encoder would silently embed both queries and documents.
    with pytest.raises(ValueError, match="task"):
        loaded.encode(TEXTS)
    assert np.abs(loaded.encode_query(TEXTS) - prompted.model.encode_query(TEXTS)).max() > 1e-3
    assert loaded.prompts == prompted.model.prompts
    assert loaded.max_seq_length == prompted.model.max_seq_length
    assert loaded.get_embedding_dimension() == 384
    assert loaded.similarity_fn_name == prompted.model.similarity_fn_name


def test_encoder_loads_the_folder(folder: tuple[SentenceTransformer, Path], prompted: Encoder) -> None:
    model, path = folder
    encoder = Encoder.load(path, settings=CPU)
    np.testing.assert_array_equal(encoder.encode_documents(TEXTS), prompted.encode_documents(TEXTS))
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    assert encoder.dimension == 384
    assert encoder.fingerprint != prompted.fingerprint
    short = Encoder.load(path, settings=EncoderSettings(device="cpu", max_seq_length=8))
    for role in ("query", "document"):
        features = short.model.preprocess([TEXTS[1]], task=role)
        assert features["input_ids"].shape == (1, 8)


def test_folder_holds_safetensors_and_each_weight_once(
    folder: tuple[SentenceTransformer, Path], request: pytest.FixtureRequest
) -> None:
    _, path = folder
    assert {file.suffix for file in path.rglob("*") if file.is_file()} == {".safetensors", ".json"}
    sizes = [file.stat().st_size for file in path.rglob("*.safetensors")]
    encoders = sum(folder.name.endswith("Transformer") for folder in path.iterdir())
    assert not (path / "model.safetensors").exists()
    assert sum(size > 50e6 for size in sizes) == encoders
    assert sum(size < 1e6 for size in sizes) == len(sizes) - encoders <= 1


def test_linear_queries_are_the_adapted_vectors_of_the_base(prompted: Encoder, matrix: NDArray[np.float32]) -> None:
    found = with_query_adapter(prompted.model, matrix).encode_query(TEXTS)
    np.testing.assert_allclose(found, apply_adapter(prompted.encode_queries(TEXTS), matrix), atol=1e-6)


def test_dual_encoder_queries_are_those_of_the_query_encoder(
    prompted: Encoder, query_encoder: SentenceTransformer, matrix: NDArray[np.float32]
) -> None:
    queries = query_encoder.encode_query(TEXTS)
    built = dual_encoder(query_encoder, prompted.model)
    np.testing.assert_array_equal(built.encode_query(TEXTS), queries)
    adapted = dual_encoder(query_encoder, prompted.model, matrix).encode_query(TEXTS)
    np.testing.assert_allclose(adapted, apply_adapter(queries, matrix), atol=1e-6)


def test_base_without_a_normalize_module(minilm: Encoder, matrix: NDArray[np.float32], tmp_path: Path) -> None:
    raw = SentenceTransformer(modules=list(minilm.model.children())[:2], device="cpu").eval()
    assert np.linalg.norm(raw.encode_document(TEXTS), axis=1).min() > 1.1
    with_query_adapter(raw, matrix).save_pretrained(str(tmp_path), create_model_card=False)
    loaded = SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    # Documents keep their norm; of queries only the direction changes.
    np.testing.assert_array_equal(loaded.encode_document(TEXTS), raw.encode_document(TEXTS))
    expected = apply_adapter(minilm.encode_queries(TEXTS), matrix)
    np.testing.assert_allclose(loaded.encode_query(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(Encoder.load(tmp_path, settings=CPU).encode_queries(TEXTS), expected, atol=1e-6)


def test_different_matrix_gives_a_different_fingerprint(
    minilm: Encoder, matrix: NDArray[np.float32], tmp_path: Path
) -> None:
    for name, values in (("one", matrix), ("same", matrix), ("other", matrix.T)):
        model = with_query_adapter(minilm.model, np.ascontiguousarray(values))
        model.save_pretrained(str(tmp_path / name), create_model_card=False)
    one, same, other = (Encoder.load(tmp_path / name, settings=CPU).fingerprint for name in ("one", "same", "other"))
    assert one == same != other


def test_building_does_not_change_the_base_or_the_matrix(minilm: Encoder, matrix: NDArray[np.float32]) -> None:
    before, kept = minilm.encode_queries(TEXTS), matrix.copy()
    model = with_query_adapter(minilm.model, matrix)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "linear" in name:
                weight.zero_()
    np.testing.assert_array_equal(minilm.encode_queries(TEXTS), before)
    np.testing.assert_array_equal(matrix, kept)


@pytest.mark.parametrize("shape", [(383, 383), (384, 383), (384,)])
def test_matrix_of_wrong_shape_is_refused(minilm: Encoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="384 numbers"):
        with_query_adapter(minilm.model, np.zeros(shape, np.float32))
    with pytest.raises(ModelError, match="384 numbers"):
        dual_encoder(minilm.model, minilm.model, np.zeros(shape, np.float32))


def test_encoders_of_different_dimension_are_refused(minilm: Encoder) -> None:
    from sentence_transformers.base.modules import Dense

    narrow = SentenceTransformer(modules=[*minilm.model.children(), Dense(384, 8)], device="cpu")
    with pytest.raises(ModelError, match="vectors of 8 numbers and the document model of 384"):
        dual_encoder(narrow, minilm.model)
