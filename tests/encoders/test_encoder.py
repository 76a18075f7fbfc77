from __future__ import annotations

import copy
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_model import tiny_model

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.prompts import Prompts, apply_prompts
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError

TEXTS = [
    "restart the queue worker",
    "a much longer text that says what to do when the disk of the build machine is full and nobody is on call",
    "",
    "caché ☃ 猫 مرحبا",
    "x",
]


@pytest.fixture(scope="module")
def plain() -> SentenceTransformer:
    """The same checkpoint without this package."""
    return SentenceTransformer(str(resolve_checkpoint(DEFAULT_BASE_MODEL)), device="cpu")


def with_settings(minilm: Encoder, **settings: object) -> Encoder:
    return Encoder(minilm.model, name="x", fingerprint="x", settings=EncoderSettings(**settings))  # type: ignore[arg-type]


class Counting(Encoder):
    """An encoder that counts the texts that reach the model."""

    def __init__(self, encoder: Encoder, **changes: object) -> None:
        options = {"name": encoder.name, "fingerprint": encoder.fingerprint, "settings": encoder.settings, **changes}
        super().__init__(encoder.model, **options)  # type: ignore[arg-type]
        self.passed: list[str] = []

    def _forward(self, texts: list[str], role: object, **options: bool) -> np.ndarray:
        self.passed.extend(texts)
        return super()._forward(texts, role, **options)  # type: ignore[arg-type]


def test_vectors_equal_sentence_transformers(minilm: Encoder, plain: SentenceTransformer) -> None:
    for ours, theirs in (
        (minilm.encode_queries(TEXTS), plain.encode_query(TEXTS, normalize_embeddings=True)),
        (minilm.encode_documents(TEXTS), plain.encode_document(TEXTS, normalize_embeddings=True)),
    ):
        assert ours.dtype == np.float32
        assert ours.shape == (len(TEXTS), minilm.dimension) == (5, 384)
        assert np.abs(ours - theirs).max() < 1e-5
        assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_order_is_kept_and_duplicates_are_encoded_once(minilm: Encoder) -> None:
    encoder = Counting(minilm)
    wanted = ["b", "a longer text", "b", "c", "a longer text"]
    vectors = encoder.encode(wanted, role="query")
    assert sorted(encoder.passed) == ["a longer text", "b", "c"]
    single = {text: minilm.encode([text], role="query")[0] for text in set(wanted)}
    assert np.abs(vectors - np.stack([single[text] for text in wanted])).max() < 1e-5


def test_no_texts_give_an_empty_matrix(minilm: Encoder) -> None:
    encoder = Counting(minilm)
    assert encoder.encode([], role="document").shape == (0, 384)
    assert encoder.passed == []


def test_chunks_do_not_change_the_result(minilm: Encoder) -> None:
    encoder = Counting(minilm)
    encoder.CHUNK = 2  # type: ignore[misc]
    counts: list[int] = []
    vectors = encoder.encode([*TEXTS, "x"], role="document", progress=counts.append)
    assert np.abs(vectors[:5] - minilm.encode(TEXTS, role="document")).max() < 1e-5
    assert sum(counts) == 6
    assert len(counts) == 3


def test_prompts_are_prepended(minilm: Encoder, plain: SentenceTransformer) -> None:
    model = copy.copy(minilm.model)
    model.prompts = {"clustering": "group: ", "query": "old"}
    apply_prompts(model, Prompts(query="search_query: ", document="search_document: "))
    assert model.prompts == {
        "clustering": "group: ",
        "query": "search_query: ",
        "document": "search_document: ",
    }
    encoder = Encoder(model, name="x", fingerprint="x", settings=EncoderSettings())
    for role in ("query", "document"):
        expected = plain.encode([f"search_{role}: {text}" for text in TEXTS[:2]], normalize_embeddings=True)
        assert np.abs(encoder.encode(TEXTS[:2], role=role) - expected).max() < 1e-5  # type: ignore[arg-type]
    assert np.abs(minilm.encode(TEXTS[:1], role="query") - encoder.encode(TEXTS[:1], role="query")).max() > 1e-3


def test_load_applies_settings() -> None:
    encoder = Encoder.load(
        DEFAULT_BASE_MODEL,
        settings=EncoderSettings(max_seq_length=16, query_prompt="ask: ", truncate_dim=64, device="cpu"),
    )
    assert encoder.model.max_seq_length == 16
    assert encoder.model.prompts["query"] == "ask: "
    assert encoder.model.prompts["document"] == ""
    assert encoder.dimension == 64
    vectors = encoder.encode(TEXTS, role="query")
    assert vectors.shape == (5, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not encoder.model.training
    words = " ".join(f"word{number}" for number in range(40))
    assert np.abs(encoder.encode([words], role="query") - encoder.encode([words + " more"], role="query")).max() < 1e-6


def test_token_limit_of_the_model_is_not_raised(minilm: Encoder) -> None:
    assert minilm.model.max_seq_length == 256
    encoder = Encoder.load(DEFAULT_BASE_MODEL, settings=EncoderSettings(max_seq_length=100_000, device="cpu"))
    assert encoder.model.max_seq_length == 256


def test_cached_texts_are_not_encoded_again(minilm: Encoder, tmp_path: Path) -> None:
    first, second, other = Counting(minilm), Counting(minilm), Counting(minilm, fingerprint="0" * 32)
    vectors = first.encode(TEXTS[:3], role="query", cache=tmp_path)
    counts: list[int] = []
    again = second.encode(
        [TEXTS[2], TEXTS[4], TEXTS[0], TEXTS[0]], role="query", cache=tmp_path, progress=counts.append
    )
    assert second.passed == [TEXTS[4]]
    assert np.array_equal(again[[0, 2, 3]], vectors[[2, 0, 0]])
    assert sum(counts) == 4
    second.encode(TEXTS[:1], role="document", cache=tmp_path)
    other.encode(TEXTS[:1], role="query", cache=tmp_path)
    assert second.passed == [TEXTS[4], TEXTS[0]]
    assert other.passed == TEXTS[:1]


@pytest.mark.parametrize("true", [True, False])
def test_cached_base_vectors_are_verified_before_use(minilm: Encoder, tmp_path: Path, true: bool) -> None:
    held = minilm.encode_documents(TEXTS, cache=tmp_path)
    model = minilm.model
    if not true:
        model = copy.deepcopy(model)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.05)
    claims = {"fingerprint": "its own", "document_fingerprint": minilm.fingerprint, "settings": minilm.settings}
    encoder = Encoder(model, name="tuned", **claims)  # type: ignore[arg-type]
    found = encoder.encode_documents([*TEXTS, "a new one"], cache=tmp_path)
    assert np.allclose(found[: len(TEXTS)], held, atol=1e-6) == true
    assert {folder.name.rpartition("-")[0] for folder in tmp_path.iterdir()} == (
        {minilm.fingerprint} if true else {minilm.fingerprint, "its own"}
    )
    # Where nothing of the base is there, nothing can be compared.
    encoder.encode_documents(TEXTS, cache=tmp_path / "empty")
    assert [folder.name.rpartition("-")[0] for folder in (tmp_path / "empty").iterdir()] == ["its own"]


def test_concurrent_calls(minilm: Encoder, tmp_path: Path) -> None:
    lists = [[f"text {place} of {number}" for place in range(6)] + ["shared text"] for number in range(4)]
    expected = [minilm.encode(texts, role="query") for texts in lists]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda texts: minilm.encode(texts, role="query", cache=tmp_path), [*lists, *lists]))
    for ours, theirs in zip(found, [*expected, *expected], strict=True):
        assert np.abs(ours - theirs).max() < 1e-5


def test_queries_of_an_evaluation_are_those_of_a_retriever(minilm: Encoder) -> None:
    faster = with_settings(minilm, precision="bfloat16")
    assert np.array_equal(faster.in_float32().encode(TEXTS, role="query"), minilm.encode(TEXTS, role="query"))
    assert faster.in_float32().fingerprint == faster.fingerprint
    assert minilm.in_float32() is minilm


def test_bfloat16_vectors_are_close_and_normalised(minilm: Encoder) -> None:
    vectors = with_settings(minilm, precision="bfloat16").encode(TEXTS, role="document")
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2)
    assert (vectors * minilm.encode(TEXTS, role="document")).sum(axis=1).min() > 0.99


def test_nan_weights_are_refused(minilm: Encoder, tmp_path: Path) -> None:
    model = copy.deepcopy(minilm.model)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    encoder = Encoder(model, name="broken", fingerprint="broken", settings=EncoderSettings())
    with pytest.raises(ModelError, match="'broken' returns NaN or infinite vectors"):
        encoder.encode(["x"], role="query", cache=tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["", "true"])
def test_forked_child_of_a_multithreaded_parent_can_encode(tmp_path: Path, parallel: str) -> None:
    script = """
import os, sys, torch
torch.set_num_threads(2)
from llama_index_ace_finetune.encoders.encoder import Encoder
encoder = Encoder.load(sys.argv[1])
texts = [f"text {i} of some length" for i in range(200)]
encoder.encode(texts, role="query")
if (child := os.fork()) == 0:
    os._exit(0 if len(encoder.encode(texts, role="query")) == 200 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": parallel}
    if not parallel:
        del environment["TOKENIZERS_PARALLELISM"]
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tiny_model(tmp_path))], env=environment, timeout=60, check=False
    )
    assert ran.returncode == 0
