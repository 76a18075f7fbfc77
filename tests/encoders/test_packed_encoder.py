"""The packed forward pass against the model's own."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.packed_attention import packed_attention
from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.saving.dual_encoder import dual_encoder, with_query_adapter

TEXTS = ["", "a", "what is it", "error LNK2019 unresolved external symbol " * 9, "word " * 400, "what is it"]


Precision = Literal["float32", "bfloat16"]
# How near the vectors are to those of the model: the least cosine, and the largest difference of a number.
NEAR = {"float32": (0.999999, 2e-6), "bfloat16": (0.999, 2e-2)}
both_precisions = pytest.mark.parametrize("precision", NEAR)


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return Encoder.load("sentence-transformers/all-MiniLM-L6-v2", settings=EncoderSettings(device="cpu"))


def encoder_of(model: SentenceTransformer, precision: Precision) -> Encoder:
    settings = EncoderSettings(device="cpu", precision=precision)
    return Encoder(model, name="x", fingerprint="x", settings=settings)


def own_vectors(model: SentenceTransformer, role: str) -> NDArray[np.float32]:
    """By sentence-transformers itself, in float32."""
    encode = model.encode_query if role == "query" else model.encode_document
    return np.asarray(encode(TEXTS, normalize_embeddings=True), np.float32)


def naive_attention(projected: torch.Tensor, lengths: list[int], heads: int) -> torch.Tensor:
    """One text and one head at a time."""
    width = projected.shape[1] // 3
    size = width // heads
    result = torch.empty(len(projected), width)
    start = 0
    for length in lengths:
        rows = projected[start : start + length]
        for head in range(heads):
            query, key, value = (rows[:, part * width + head * size :][:, :size] for part in range(3))
            result[start : start + length, head * size : (head + 1) * size] = torch.softmax(query @ key.T, -1) @ value
        start += length
    return result


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.sampled_from([1, 2, 4]))
@settings(max_examples=40)
def test_attention_per_text(lengths: list[int], heads: int) -> None:
    projected = torch.randn(sum(lengths), 3 * 8, generator=torch.Generator().manual_seed(len(lengths)))
    found = packed_attention(projected, lengths, heads=heads)
    assert torch.allclose(found, naive_attention(projected, lengths, heads), atol=1e-5)


def test_attention_over_many_long_texts_is_chunked() -> None:
    lengths = [600] * 8
    projected = torch.randn(sum(lengths), 3 * 8)
    found = packed_attention(projected, lengths, heads=2)
    assert torch.allclose(found, naive_attention(projected, lengths, 2), atol=1e-5)


@both_precisions
def test_vectors_agree_with_the_model(minilm: Encoder, precision: Precision) -> None:
    fast = encoder_of(minilm.model, precision)
    cosine, difference = NEAR[precision]
    for role in ("query", "document"):
        vectors = fast.encode(TEXTS, role=role)
        assert fast.packs(TEXTS, role)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        expected = own_vectors(minilm.model, role)
        assert (vectors * expected).sum(axis=1).min() > cosine
        assert np.abs(vectors - expected).max() < difference
        assert (vectors[2] == vectors[5]).all()


def test_roles_with_the_same_modules_share_one_copy_of_the_weights(minilm: Encoder) -> None:
    fast = encoder_of(minilm.model, "float32")
    assert all(fast.packs(TEXTS, role) for role in ("query", "document"))
    passes = fast._pass._packed
    assert passes["query"] is passes["document"] is not None


def test_truncated_vectors_come_from_the_model_itself(minilm: Encoder) -> None:
    settings = EncoderSettings(device="cpu", truncate_dim=128)
    short = Encoder(minilm.model, name="x", fingerprint="x", settings=settings)
    assert not short.packs(TEXTS, "query")
    assert short.encode(TEXTS, role="query").shape == (len(TEXTS), 128)


@both_precisions
def test_vectors_do_not_depend_on_order_or_batch(minilm: Encoder, precision: Precision) -> None:
    packed = PackedEncoder(minilm.model, dtype=getattr(torch, precision))
    features = minilm.model.preprocess(TEXTS)
    whole = packed(features["input_ids"], features["attention_mask"])
    for row, text in enumerate(TEXTS):
        single = minilm.model.preprocess([text])
        found = packed(single["input_ids"], single["attention_mask"])[0]
        assert torch.allclose(whole[row], found, atol=1e-6 if precision == "float32" else 2e-3)


@both_precisions
def test_changed_weights_are_detected(minilm: Encoder, precision: Precision) -> None:
    model = copy.deepcopy(minilm.model)
    fast = encoder_of(model, precision)
    before = fast.encode(TEXTS, role="query")
    with torch.no_grad():
        model[0].auto_model.encoder.layer[3].output.dense.weight.mul_(1.5)
    after = fast.encode(TEXTS, role="query")
    assert (after * own_vectors(model, "query")).sum(axis=1).min() > NEAR[precision][0]
    assert (after * before).sum(axis=1).min() < 0.999


@both_precisions
def test_weights_changed_after_fused_optimiser(minilm: Encoder, precision: Precision) -> None:
    model = copy.deepcopy(minilm.model)
    fast = encoder_of(model, precision)
    before = fast.encode(TEXTS, role="query")
    layers = [weight for name, weight in model.named_parameters() if ".dense.weight" in name]
    for weight in layers:
        weight.grad = torch.randn_like(weight)
    torch.optim.AdamW(layers, lr=1e-2, fused=True).step()
    fast.weights_changed()
    after = fast.encode(TEXTS, role="query")
    assert (after * own_vectors(model, "query")).sum(axis=1).min() > NEAR[precision][0]
    assert (after * before).sum(axis=1).min() < 0.999


def tiny(kind: str, pooling: str, folder: Path) -> SentenceTransformer:
    """A model of random weights with the bundled model's tokenizer."""
    from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"vocab_size": 30522, "max_position_embeddings": 140, "initializer_range": 0.2}
    bert = BertModel(BertConfig(**sizes)) if kind == "bert" else XLMRobertaModel(XLMRobertaConfig(**sizes))
    bert.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        file = resolve_checkpoint("sentence-transformers/all-MiniLM-L6-v2") / name
        if file.is_file():
            (folder / name).write_bytes(file.read_bytes())
    transformer = Transformer(str(folder), max_seq_length=128)
    return SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=pooling), Normalize()], device="cpu")


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@both_precisions
def test_other_architectures_agree(kind: str, pooling: str, precision: Precision, tmp_path: Path) -> None:
    model = tiny(kind, pooling, tmp_path)
    assert PackedEncoder.supports(model)
    features = model.preprocess(TEXTS)
    packed = PackedEncoder(model, dtype=getattr(torch, precision))
    found = packed(features["input_ids"], features["attention_mask"]).numpy()
    assert (found * own_vectors(model, "document")).sum(axis=1).min() > NEAR[precision][0]


def test_unsupported_models_use_their_forward_pass(minilm: Encoder, tmp_path: Path) -> None:
    assert not PackedEncoder.supports(tiny("bert", "max", tmp_path))
    model = copy.deepcopy(minilm.model)
    model[0].auto_model.config.hidden_act = "relu"
    assert not PackedEncoder.supports(model)


@both_precisions
def test_disagreeing_model_is_not_packed(minilm: Encoder, precision: Precision) -> None:
    model = copy.deepcopy(minilm.model)
    # A change in the forward pass that the architecture's name does not show.
    model[0].auto_model.encoder.layer[0].register_forward_hook(lambda _module, _inputs, output: output * -1)
    fast = encoder_of(model, precision)
    vectors = fast.encode(TEXTS, role="query")
    assert not fast.packs(TEXTS, "query")
    assert (vectors * own_vectors(model, "query")).sum(axis=1).min() > 0.99
    assert math.isclose(float(np.linalg.norm(vectors[0])), 1, abs_tol=1e-2)


@pytest.mark.parametrize("whole", [False, True])
@both_precisions
def test_dual_encoder_is_packed_per_role(minilm: Encoder, whole: bool, precision: Precision) -> None:
    matrix = np.asarray(np.eye(384) + 0.05 * np.random.default_rng(0).normal(size=(384, 384)), np.float32)
    trained = copy.deepcopy(minilm.model)
    with torch.no_grad():
        trained[0].auto_model.encoder.layer[3].output.dense.weight.mul_(1.5)
    model = dual_encoder(trained, minilm.model, matrix) if whole else with_query_adapter(trained, matrix)
    fast = encoder_of(model, precision)
    for role in ("query", "document"):
        vectors = fast.encode(TEXTS, role=role)
        assert fast.packs(TEXTS, role)
        assert (vectors * own_vectors(model, role)).sum(axis=1).min() > NEAR[precision][0]
    assert (fast.encode(TEXTS, role="query") * fast.encode(TEXTS, role="document")).sum(axis=1).max() < 0.999
