from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llama_index_ace_finetune.training.losses import max_sim as module
from llama_index_ace_finetune.training.losses.max_sim import LOWEST, max_sim


def double_loop(queries: list[Tensor], documents: list[Tensor]) -> Tensor:
    """The formula of the docstring, one query and one document at a time."""

    def score(query: Tensor, document: Tensor) -> Tensor:
        if not len(query) or not len(document):
            return torch.tensor(LOWEST, dtype=query.dtype)
        return torch.stack([(document @ token).max() for token in query]).mean()

    return torch.stack([torch.stack([score(query, document) for document in documents]) for query in queries])


def random_texts(generator: torch.Generator, count: int, *, most: int) -> tuple[Tensor, Tensor]:
    """Token vectors in float64 and lengths of texts, some of them empty."""
    lengths = torch.randint(0, most + 1, (count,), generator=generator)
    return torch.randn(int(lengths.sum()), 5, dtype=torch.float64, generator=generator), lengths


@given(st.integers(0, 2**31 - 1), st.integers(1, 4), st.integers(1, 7), st.sampled_from([1, 40, 10_000]))
@settings(max_examples=40)
def test_values_and_gradients_equal_a_double_loop(seed: int, queries: int, documents: int, block: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query_tokens, query_lengths = random_texts(generator, queries, most=4)
    document_tokens, document_lengths = random_texts(generator, documents, most=6)
    gradient = torch.randn(queries, documents, dtype=torch.float64, generator=generator)
    ours = [query_tokens.clone().requires_grad_(), document_tokens.clone().requires_grad_()]
    theirs = [query_tokens.clone().requires_grad_(), document_tokens.clone().requires_grad_()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_SCORES", block)  # from one document a block to all in one
        scores = max_sim(ours[0], query_lengths, ours[1], document_lengths)
    expected = double_loop(
        list(torch.split(theirs[0], query_lengths.tolist())), list(torch.split(theirs[1], document_lengths.tolist()))
    )
    assert torch.allclose(scores, expected, rtol=0, atol=1e-12)
    (scores * gradient).sum().backward()
    (expected * gradient + 0 * theirs[0].sum() + 0 * theirs[1].sum()).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-12)


def test_worked_example() -> None:
    # Query tokens (1, 0) and (0, 1); the document's tokens have the cosines .6 and .8, and 1 and 0 with them.
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    documents = torch.tensor([[0.6, 0.8], [1.0, 0.0]], requires_grad=True)
    scores = max_sim(queries, torch.tensor([2]), documents, torch.tensor([2]))
    assert scores.tolist() == [[pytest.approx((1.0 + 0.8) / 2)]]
    scores.sum().backward()
    assert queries.grad is not None
    assert documents.grad is not None
    # Each query token pulls half of the document token that it matches, and the other way round.
    assert torch.allclose(queries.grad, torch.tensor([[0.5, 0.0], [0.3, 0.4]]))
    assert torch.allclose(documents.grad, torch.tensor([[0.0, 0.5], [0.5, 0.0]]))


def test_texts_without_tokens_score_lowest_and_have_no_gradient() -> None:
    queries = torch.ones(2, 3, requires_grad=True)
    nothing = torch.empty(0, 3, requires_grad=True)
    scores = max_sim(queries, torch.tensor([2, 0]), nothing, torch.tensor([0, 0]))
    assert scores.tolist() == [[LOWEST, LOWEST], [LOWEST, LOWEST]]
    scores.sum().backward()
    assert queries.grad is not None
    assert not queries.grad.any()
    assert max_sim(nothing, torch.tensor([0]), queries, torch.tensor([2])).tolist() == [[LOWEST]]


def test_nan_propagates() -> None:
    documents = torch.tensor([[float("nan"), 0.0], [1.0, 0.0]])
    assert max_sim(torch.eye(2), torch.tensor([2]), documents, torch.tensor([2])).isnan().all()


def test_blocks_cover_all_documents_within_the_limit() -> None:
    lengths = torch.tensor([0, 3, 3, 5, 40, 0, 41])
    query_tokens, limit = 7, 7 * 80
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_SCORES", limit)
        blocks = list(module._blocks(lengths, query_tokens=query_tokens))
    assert [number for columns, _ in blocks for number in range(7)[columns]] == list(range(7))
    assert all(rows.numel() * query_tokens <= limit for _, rows in blocks)
    assert len(blocks) == 3
    ends = torch.cumsum(lengths, dim=0).tolist()
    for columns, rows in blocks:
        for number, row in zip(range(7)[columns], rows.tolist(), strict=True):
            if lengths[number]:
                assert set(row) == set(range(ends[number] - int(lengths[number]), ends[number]))
