from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llama_index_ace_finetune.training.losses.full_corpus import (
    PADDING,
    full_corpus_loss,
    nearest_part,
    nearest_rows,
    pad_rows,
)
from llama_index_ace_finetune.training.losses.masked_ranking import masked_ranking_loss


def naive(queries: Tensor, documents: Tensor, positives: list[list[int]], temperature: float) -> Tensor:
    """The formula of the docstring, one query and one positive at a time, in double precision."""
    losses = []
    for query, rows in zip(queries, positives, strict=True):
        scores = documents.double() @ query / temperature
        negatives = [scores[row] for row in range(len(documents)) if row not in rows]
        terms = [torch.logsumexp(torch.stack([scores[row], *negatives]), dim=0) - scores[row] for row in rows]
        if terms:
            losses.append(torch.stack(terms).mean())
    return torch.stack(losses).mean() if losses else queries.sum() * 0


@given(st.integers(0, 2**31 - 1), st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.03, 0.2, 1.0]))
@settings(max_examples=60)
def test_values_and_gradients_equal_a_naive_loop(seed: int, count: int, documents: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = nn.functional.normalize(torch.randn(documents, 5, generator=generator))
    ours = nn.functional.normalize(torch.randn(count, 5, generator=generator)).requires_grad_()
    theirs = ours.detach().double().requires_grad_()
    positives = [
        torch.nonzero(torch.rand(documents, generator=generator) < 0.3).flatten().tolist() for _ in range(count)
    ]
    loss = full_corpus_loss(
        ours, vectors, pad_rows([np.array(rows, np.int64) for rows in positives]), temperature=temperature
    )
    expected = naive(theirs, vectors, positives, temperature)
    (loss * 3).backward()  # type: ignore[no-untyped-call]
    (expected * 3).backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5, rel=1e-5)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert (ours.grad - theirs.grad).abs().max() <= 1e-5 * max(1.0, float(theirs.grad.abs().max()))


def test_equals_the_masked_loss_without_masked_documents() -> None:
    generator = torch.Generator().manual_seed(1)
    queries = nn.functional.normalize(torch.randn(6, 8, generator=generator))
    documents = nn.functional.normalize(torch.randn(30, 8, generator=generator))
    targets = (torch.rand(6, 30, generator=generator) < 0.2).to(torch.int8)
    rows = pad_rows([np.flatnonzero(row) for row in targets.numpy()])
    expected = masked_ranking_loss(queries @ documents.T, targets, temperature=0.05)
    assert float(full_corpus_loss(queries, documents, rows, temperature=0.05)) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_worked_example() -> None:
    # Cosines .8 to the positive, .6 to a negative: log(1 + exp((.6 - .8) / .1)) = log(1 + e^-2).
    loss = full_corpus_loss(torch.tensor([[0.8, 0.6]]), torch.eye(2), torch.tensor([[0, PADDING]]), temperature=0.1)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)))


def test_positives_do_not_compete() -> None:
    query, negative = torch.tensor([[0.6, 0.8]]), [0.0, 1.0]
    one = full_corpus_loss(query, torch.tensor([[1.0, 0.0], negative]), torch.tensor([[0]]), temperature=0.1)
    # The second positive is as near as the first, so the mean over both is the same.
    both = full_corpus_loss(
        query, torch.tensor([[1.0, 0.0], negative, [1.0, 0.0]]), torch.tensor([[0, 2]]), temperature=0.1
    )
    assert float(both) == pytest.approx(float(one))


@pytest.mark.parametrize("rows", [[[PADDING, PADDING]], [[0, 1]]])
def test_without_positives_or_negatives_loss_and_gradient_are_zero(rows: list[list[int]]) -> None:
    queries = torch.tensor([[0.8, 0.6]], requires_grad=True)
    loss = full_corpus_loss(queries, torch.eye(2), torch.tensor(rows), temperature=0.01)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert queries.grad is not None
    assert not queries.grad.any()


def test_autocast_does_not_change_the_loss() -> None:
    generator = torch.Generator().manual_seed(2)
    queries = nn.functional.normalize(torch.randn(4, 16, generator=generator))
    documents = nn.functional.normalize(torch.randn(40, 16, generator=generator))
    rows = torch.tensor([[0], [1], [2], [3]])
    expected = full_corpus_loss(queries, documents, rows, temperature=0.03)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(full_corpus_loss(queries, documents, rows, temperature=0.03), expected)


def test_nan_propagates() -> None:
    loss = full_corpus_loss(torch.tensor([[math.nan, 0.1]]), torch.eye(2), torch.tensor([[0]]), temperature=0.05)
    assert math.isnan(float(loss))


def test_pad_rows_removes_duplicates() -> None:
    padded = pad_rows([np.array([4, 2, 4]), np.array([], np.int64), np.array([7])])
    assert padded.tolist() == [[2, 4], [PADDING, PADDING], [7, PADDING]]
    assert pad_rows([]).shape == (0, 0)


def test_nearest_part_holds_nearest_rows_and_positives() -> None:
    part, places = nearest_part(torch.tensor([[9, 3], [3, 5]]), torch.tensor([[7, PADDING], [3, 9]]))
    assert part.tolist() == [3, 5, 7, 9]
    assert places.tolist() == [[2, PADDING], [0, 3]]


def test_part_with_all_rows_gives_the_full_loss() -> None:
    generator = torch.Generator().manual_seed(3)
    queries = nn.functional.normalize(torch.randn(5, 6, generator=generator))
    documents = nn.functional.normalize(torch.randn(12, 6, generator=generator))
    rows = torch.tensor([[0, 3], [1, PADDING], [2, PADDING], [11, PADDING], [5, 6]])
    part, places = nearest_part(nearest_rows(queries, documents, 99), rows)
    assert torch.equal(part, torch.arange(12))
    assert torch.equal(
        full_corpus_loss(queries, documents[part], places, temperature=0.05),
        full_corpus_loss(queries, documents, rows, temperature=0.05),
    )


def test_nearest_rows_equal_a_full_sort() -> None:
    generator = torch.Generator().manual_seed(4)
    queries, documents = torch.randn(7, 6, generator=generator), torch.randn(20, 6, generator=generator)
    expected = torch.argsort(queries @ documents.T, dim=1, descending=True)[:, :4]
    found = nearest_rows(queries, documents, 4, tile=3)
    assert [set(row) for row in found.tolist()] == [set(row) for row in expected.tolist()]
    assert nearest_rows(queries[:0], documents, 4).shape == (0, 4)
