"""Single vectors and MaxSim trained in one forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from test_masked_ranking import TEXTS, double_loop
from torch import Tensor, nn

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits
from llama_index_ace_finetune.training.losses.late_interaction import LateInteraction
from llama_index_ace_finetune.training.losses.masked_ranking import MaskedRankingLoss

CPU = EncoderSettings(device="cpu")
QUERIES, DOCUMENTS = TEXTS[:3], TEXTS[3:8]
# One positive that two queries share, one masked document, a query with two positives.
TARGETS = torch.tensor([[1, 0, 0, 0, 0], [0, 1, -1, 0, 0], [1, 0, 0, 1, 0]])


@pytest.fixture(scope="module")
def model(one_layer: str) -> SentenceTransformer:
    return Encoder.load(one_layer, settings=CPU).model


def loss_of(model: SentenceTransformer, *, memory: ChunkLimits | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    """The loss of the batch, and all gradients in one vector."""
    projection = options.pop("projection", None)
    late = LateInteraction(weight=0.5, temperature=0.1, projection=projection)
    loss = MaskedRankingLoss(model, temperature=0.05, late_interaction=late, **options)
    loss.memory = memory or ChunkLimits()
    value = loss([model.preprocess(QUERIES), model.preprocess(DOCUMENTS)], TARGETS)
    value.backward()
    gradients = torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])
    if late.projection is not None:
        assert late.projection.grad is not None
        assert late.projection.grad.any()
    loss.zero_grad()
    return value.detach(), gradients


def expected_loss(model: SentenceTransformer, projection: Tensor | None = None) -> Tensor:
    """Both losses by loops over the vectors and token vectors that sentence-transformers gives."""

    def tokens(texts: list[str]) -> list[Tensor]:
        states: Any = model.encode(texts, output_value="token_embeddings")
        return [nn.functional.normalize(s if projection is None else s @ projection, dim=1) for s in states]

    queries, documents = tokens(QUERIES), tokens(DOCUMENTS)
    max_sim = torch.stack(
        [torch.stack([(query @ document.T).max(dim=1).values.mean() for document in documents]) for query in queries]
    )
    vectors = [model.encode(texts, convert_to_tensor=True, normalize_embeddings=True) for texts in (QUERIES, DOCUMENTS)]
    return double_loop(vectors[0] @ vectors[1].T, TARGETS, 0.05) + 0.5 * double_loop(max_sim, TARGETS, 0.1)


def test_loss_is_the_weighted_sum_of_both(model: SentenceTransformer) -> None:
    loss, _ = loss_of(model)
    assert float(loss) == pytest.approx(float(expected_loss(model)), abs=1e-4)
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(384, 16, generator=generator)
    loss, _ = loss_of(model, projection=projection)
    assert float(loss) == pytest.approx(float(expected_loss(model, projection)), abs=1e-4)


def test_symmetric_loss_covers_both(model: SentenceTransformer) -> None:
    one, both = loss_of(model)[0], loss_of(model, symmetric=True)[0]
    assert abs(float(one - both)) > 1e-3


@pytest.mark.parametrize("packed", [False, True])
def test_one_forward_pass_per_text(model: SentenceTransformer, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    if packed:
        from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder

        whole = PackedEncoder.embed_with_states
        monkeypatch.setattr(
            PackedEncoder,
            "embed_with_states",
            lambda self, ids, mask: (texts.append(len(ids)), whole(self, ids, mask))[1],
        )
    else:
        model.register_forward_pre_hook(lambda _, inputs: texts.append(len(inputs[0]["input_ids"])))
    loss_of(model, packed=packed)
    assert sum(texts) == len(QUERIES) + len(DOCUMENTS)
    model._forward_pre_hooks.clear()


@pytest.mark.parametrize("packed", [False, True])
def test_recomputed_activations_give_the_same_gradients(model: SentenceTransformer, packed: bool) -> None:
    loss, gradients = loss_of(model, packed=packed)
    memory = ChunkLimits(max_cached_tokens=0, chunk_tokens=40)
    recomputed, same = loss_of(model, packed=packed, memory=memory)
    assert float(recomputed) == pytest.approx(float(loss), abs=2e-2 if packed else 1e-4)
    assert nn.functional.cosine_similarity(gradients, same, dim=0) > (0.99 if packed else 0.99999)


def test_packed_gradients_are_those_of_the_model_in_bfloat16(model: SentenceTransformer) -> None:
    projection = torch.eye(384)[:, :96]
    (loss, gradients), (packed_loss, packed) = (
        loss_of(model, packed=packed, projection=projection) for packed in (False, True)
    )
    assert float(packed_loss) == pytest.approx(float(loss), rel=0.02)
    assert nn.functional.cosine_similarity(gradients, packed, dim=0) > 0.98
