"""Embedding in chunks, padded or packed, with activations cached or recomputed, gives one result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.losses import embed_batch
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits, embed

TEXTS = [f"memory {number} " + "and more words " * (number % 5 * 3) for number in range(11)]


def gradients_of(minilm: Encoder, vectors: Tensor) -> Tensor:
    """All gradients, concatenated, of a weighted sum whose weights differ by row and dimension."""
    minilm.model.zero_grad()
    weights = torch.sin(torch.arange(vectors.numel(), dtype=torch.float32)).reshape(vectors.shape)
    (vectors * weights).sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in minilm.model.parameters() if p.grad is not None])
    minilm.model.zero_grad()
    return gradients


@pytest.fixture(scope="module")
def one_pass(minilm: Encoder) -> tuple[Tensor, Tensor]:
    assert not minilm.model.training
    vectors = nn.functional.normalize(minilm.model(dict(minilm.model.preprocess(TEXTS)))["sentence_embedding"])
    return vectors.detach(), gradients_of(minilm, vectors)


@pytest.mark.parametrize("max_cached_tokens", [0, 10**6])
@pytest.mark.parametrize("chunk_tokens", [40, 4096])
def test_chunks_give_the_vectors_and_gradients_of_one_pass(
    minilm: Encoder,
    one_pass: tuple[Tensor, Tensor],
    max_cached_tokens: int,
    chunk_tokens: int,
) -> None:
    memory = ChunkLimits(max_cached_tokens=max_cached_tokens, chunk_tokens=chunk_tokens)
    vectors = embed(minilm.model, minilm.model.preprocess(TEXTS), packed=False, memory=memory)
    assert vectors.dtype == torch.float32
    assert (vectors - one_pass[0]).abs().max() < 1e-5
    gradients = gradients_of(minilm, vectors)
    assert len(gradients) == len(one_pass[1])
    assert (gradients - one_pass[1]).norm() < 1e-4 * one_pass[1].norm()


@pytest.mark.parametrize("max_cached_tokens", [0, 10**6])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_packed_gradients_are_those_of_the_model(
    minilm: Encoder, one_pass: tuple[Tensor, Tensor], max_cached_tokens: int, bfloat16: bool
) -> None:
    memory = ChunkLimits(max_cached_tokens=max_cached_tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        vectors = embed(minilm.model, minilm.model.preprocess(TEXTS), packed=True, memory=memory)
    assert vectors.dtype == torch.float32
    gradients = gradients_of(minilm, vectors)
    if bfloat16:
        assert (vectors * one_pass[0]).sum(dim=1).min() > 0.999
        assert nn.functional.cosine_similarity(gradients, one_pass[1], dim=0) > 0.99
        assert float(gradients.norm()) == pytest.approx(float(one_pass[1].norm()), rel=0.05)
    else:
        assert (vectors - one_pass[0]).abs().max() < 1e-5
        assert (gradients - one_pass[1]).norm() < 1e-4 * one_pass[1].norm()


def test_recomputation_stores_fewer_activations(minilm: Encoder) -> None:
    features = minilm.model.preprocess(TEXTS)
    stored: dict[int, int] = {}
    for max_cached_tokens in (0, 10**6):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            embed(minilm.model, features, packed=True, memory=ChunkLimits(max_cached_tokens=max_cached_tokens))
        stored[max_cached_tokens] = sum(sizes)
    assert stored[0] < stored[10**6] / 2


@pytest.mark.parametrize(("gigabytes", "recomputed"), [(0.001, True), (8, False), (None, False)])
def test_activations_that_exceed_a_share_of_the_main_memory_are_recomputed(
    minilm: Encoder, monkeypatch: pytest.MonkeyPatch, gigabytes: float | None, recomputed: bool
) -> None:
    size = None if gigabytes is None else int(gigabytes * 2**30)
    monkeypatch.setattr(embed_batch, "memory_bytes", lambda: size)
    stored: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.numel()) or t, lambda t: t):
        embed(minilm.model, minilm.model.preprocess(TEXTS), packed=True)
    whole = 6 * 4 * 384 * sum(len(row) for row in minilm.model.tokenizer(TEXTS, truncation=True)["input_ids"])
    assert (sum(stored) < whole) == recomputed


def test_activations_take_the_memory_that_is_counted(minilm: Encoder) -> None:
    features = minilm.model.preprocess(["word " * 120] * 8)
    held: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: held.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
    ):
        vectors = embed(minilm.model, features, packed=True)
    weights = {weight.untyped_storage().data_ptr() for weight in minilm.model.parameters()}
    kept = sum(size for place, size in held.items() if place not in weights)
    counted = embed_batch._KEPT_PER_LAYER * 6 * 384 * 4 * int(features["attention_mask"].sum())
    assert 0.6 * counted < kept < 1.2 * counted
    del vectors


def test_chunks_reduce_padding() -> None:
    widths: list[int] = []

    class Recorder(nn.Module):
        def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
            widths.append(features["attention_mask"].shape[1])
            total = features["input_ids"].float().sum(dim=1)
            return {"sentence_embedding": torch.stack([total, torch.ones_like(total)], dim=1)}

    mask = torch.tensor([[1] * n + [0] * (9 - n) for n in (2, 9, 3, 2)])
    out = embed(
        Recorder(), {"input_ids": mask * 5, "attention_mask": mask}, packed=False, memory=ChunkLimits(chunk_tokens=8)
    )
    assert widths == [3, 9]
    assert (out[:, 0] / out[:, 1]).round().tolist() == [10, 45, 15, 10]


def test_limits_shrink_to_the_smallest_chunk() -> None:
    memory = ChunkLimits(max_cached_tokens=1000, chunk_tokens=512)
    assert memory.shrink()
    assert (memory.max_cached_tokens, memory.chunk_tokens) == (0, 512)
    assert [memory.shrink() for _ in range(3)] == [True, True, False]
