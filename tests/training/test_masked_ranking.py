from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.data.batches import MASKED, NEGATIVE, POSITIVE
from llama_index_ace_finetune.training.losses.masked_ranking import (
    MaskedRankingLoss,
    masked_ranking_loss,
    symmetric_ranking_loss,
)


def double_loop(similarities: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The formula of the docstring, one query and one positive at a time, in double precision."""
    losses = []
    for row, labels in zip(similarities.double() / temperature, targets.tolist(), strict=True):
        negatives = [row[j] for j, label in enumerate(labels) if label == NEGATIVE]
        terms = [
            -(row[j] - torch.logsumexp(torch.stack([row[j], *negatives]), dim=0))
            for j, label in enumerate(labels)
            if label == POSITIVE
        ]
        if terms:
            losses.append(torch.stack(terms).mean())
    return torch.stack(losses).mean() if losses else similarities.double().sum() * 0


@given(st.integers(0, 2**31 - 1), st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.05, 0.2, 1.0]))
@settings(max_examples=60)
def test_values_and_gradients_equal_a_double_loop(seed: int, queries: int, documents: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(queries, documents, generator=generator) * 2 - 1
    targets = torch.randint(-1, 2, (queries, documents), generator=generator).to(torch.int8)
    ours, theirs = cosines.clone().requires_grad_(), cosines.clone().requires_grad_()
    loss = masked_ranking_loss(ours, targets, temperature=temperature)
    expected = double_loop(theirs, targets, temperature)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5, rel=1e-5)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert (ours.grad - theirs.grad).abs().max() < 1e-5 / temperature
    assert not ours.grad[targets == MASKED].any()


def test_single_positive_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(7, 20, generator=generator) * 2 - 1
    positives = torch.randint(0, 20, (7,), generator=generator)
    targets = torch.zeros(7, 20, dtype=torch.int8)
    targets[torch.arange(7), positives] = POSITIVE
    ours, theirs = cosines.clone().requires_grad_(), cosines.clone().requires_grad_()
    loss = masked_ranking_loss(ours, targets, temperature=0.05)
    expected = nn.functional.cross_entropy(theirs / 0.05, positives)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)  # type: ignore[arg-type]


def test_worked_example() -> None:
    # A positive at .8, a negative at .6, a masked document at .9: log(1 + exp((.6 - .8) / .1)) = log(1 + e^-2).
    loss = masked_ranking_loss(
        torch.tensor([[0.8, 0.6, 0.9]]), torch.tensor([[POSITIVE, NEGATIVE, MASKED]]), temperature=0.1
    )
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)))


def test_positives_do_not_compete() -> None:
    one = masked_ranking_loss(torch.tensor([[0.2, 0.1]]), torch.tensor([[1, 0]]), temperature=0.05)
    # The second positive has the cosine of the first, so the mean over both is the same.
    both = masked_ranking_loss(torch.tensor([[0.2, 0.1, 0.2]]), torch.tensor([[1, 0, 1]]), temperature=0.05)
    assert float(both) == pytest.approx(float(one))


def test_queries_without_positives_are_ignored() -> None:
    cosines = torch.tensor([[0.8, 0.6], [0.1, 0.9]])
    one = masked_ranking_loss(cosines[:1], torch.tensor([[1, 0]]), temperature=0.1)
    assert float(masked_ranking_loss(cosines, torch.tensor([[1, 0], [0, -1]]), temperature=0.1)) == pytest.approx(
        float(one)
    )


@pytest.mark.parametrize("labels", [[[0, 0]], [[-1, -1]], [[1, -1]], [[1, 1]]])
def test_without_positives_or_negatives_the_loss_is_zero_with_finite_gradients(labels: list[list[int]]) -> None:
    cosines = torch.tensor([[0.8, 0.6]], requires_grad=True)
    loss = masked_ranking_loss(cosines, torch.tensor(labels), temperature=0.01)
    loss.backward()
    assert loss.item() == 0
    assert cosines.grad is not None
    assert torch.isfinite(cosines.grad).all()


def test_nan_propagates() -> None:
    loss = masked_ranking_loss(torch.tensor([[math.nan, 0.1]]), torch.tensor([[1, 0]]), temperature=0.05)
    assert math.isnan(float(loss))


TEXTS = [f"memory {number} " + "and more words " * (number % 5 * 3) for number in range(11)]


def test_loss_module_compares_queries_with_documents(minilm: Encoder) -> None:
    queries, documents = TEXTS[:3], TEXTS[3:7]
    targets = torch.tensor([[1, 0, 0, 0], [0, 1, -1, 0], [1, 0, 0, 1]])
    loss = MaskedRankingLoss(minilm.model, temperature=0.05)(
        [minilm.model.preprocess(queries), minilm.model.preprocess(documents)], targets
    )
    cosines = minilm.encode_queries(queries) @ minilm.encode_documents(documents).T
    expected = double_loop(torch.from_numpy(np.asarray(cosines)), targets, 0.05)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)


@given(st.integers(0, 2**31 - 1), st.integers(1, 6), st.integers(1, 9))
@settings(max_examples=40)
def test_symmetric_loss_averages_both_directions(seed: int, queries: int, documents: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(queries, documents, generator=generator) * 2 - 1
    targets = torch.randint(-1, 2, (queries, documents), generator=generator).to(torch.int8)
    expected = (double_loop(cosines, targets, 0.1) + double_loop(cosines.T, targets.T, 0.1)) / 2
    assert symmetric_ranking_loss(cosines, targets, temperature=0.1).item() == pytest.approx(expected.item(), abs=1e-5)


def test_matryoshka_dimensions_add_losses_of_prefixes(minilm: Encoder) -> None:
    blocks = [minilm.model.preprocess(TEXTS[:3]), minilm.model.preprocess(TEXTS[3:7])]
    targets = torch.tensor([[1, 0, 0, 0], [0, 1, -1, 0], [1, 0, 0, 1]])
    loss = MaskedRankingLoss(minilm.model, temperature=0.05, symmetric=True, dimensions=(128, 32))(blocks, targets)
    queries, documents = (torch.from_numpy(minilm.encode(texts, role="query")) for texts in (TEXTS[:3], TEXTS[3:7]))
    expected = []
    for length in (384, 128, 32):
        short = [nn.functional.normalize(vectors[:, :length]) for vectors in (queries, documents)]
        cosines = short[0] @ short[1].T
        expected += [double_loop(cosines, targets, 0.05), double_loop(cosines.T, targets.T, 0.05)]
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-4)


def test_cosines_are_in_float32_where_training_is_in_bfloat16(minilm: Encoder) -> None:
    loss = MaskedRankingLoss(minilm.model, temperature=0.05, dimensions=(64,))
    random = torch.Generator().manual_seed(0)
    queries, documents = (
        torch.nn.functional.normalize(torch.randn(count, 384, generator=random), dim=1) for count in (4, 6)
    )
    targets = torch.eye(4, 6, dtype=torch.int8)
    plain = loss._of_vectors(queries, documents, targets=targets, teacher=None, weights=None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss._of_vectors(queries, documents, targets=targets, teacher=None, weights=None)
    assert mixed.item() == pytest.approx(plain.item(), abs=1e-6)
