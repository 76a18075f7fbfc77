"""MaxSim of every query with every document of a batch, with gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

LOWEST: Final = -1.0
"""MaxSim of a query or a document without tokens: no cosine is lower."""
# Scores (query tokens x document tokens) of one product; on the CPU they fit its cache.
_BLOCK_SCORES: Final = 1 << 21
_BLOCK_SCORES_GPU: Final = 1 << 25


def max_sim(
    queries: Tensor,
    query_lengths: Tensor,
    documents: Tensor,
    document_lengths: Tensor,
    *,
    products: torch.dtype | None = None,
) -> Tensor:
    """Return the mean over query tokens of the largest inner product with a document token, [n, m].

    score(q, d) = 1/|q| * sum over query tokens i of max over document tokens j of q_i . d_j
    A query or document without tokens scores `LOWEST`, without a gradient.

    Documents are compared in blocks, and only the position of each maximum is kept for the backward pass, so the memory
    is that of one block and of [query tokens, m]. Padding repeats the last token of a document, which changes no
    maximum. It is fastest if neighbouring documents have similar lengths.

    Source: ColBERT (Khattab and Zaharia 2020, arXiv:2004.12832), its sum divided by the number of query tokens.

    Args:
        queries: float tensor [s, d], the token vectors of n queries, one query after the other.
        query_lengths: int64 tensor [n], tokens of each query; they sum to s.
        documents: float tensor [t, d], the token vectors of m documents.
        document_lengths: int64 tensor [m]; they sum to t.
        products: type in which the inner products are computed; that of the vectors by default.
    """
    return _MaxSim.apply(  # type: ignore[no-any-return, no-untyped-call]
        queries, query_lengths, documents, document_lengths, products or queries.dtype
    )


class _MaxSim(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        query_lengths: Tensor,
        documents: Tensor,
        document_lengths: Tensor,
        products: torch.dtype,
    ) -> Tensor:
        owner = torch.repeat_interleave(query_lengths)
        of_tokens = queries.new_empty((len(document_lengths), len(queries)))
        best = torch.zeros_like(of_tokens, dtype=torch.int64)
        with torch.autocast(queries.device.type, enabled=False):
            right, left = queries.to(products).T, documents.to(products)
            for columns, rows in _blocks(document_lengths, query_tokens=len(queries)):
                scores = (left[rows.flatten()] @ right).view(*rows.shape, len(queries))
                of_tokens[columns], place = scores.max(dim=1)
                best[columns] = rows.gather(1, place)
        empty = (query_lengths == 0)[:, None] | (document_lengths == 0)[None, :]
        of_tokens[document_lengths == 0] = 0
        sums = of_tokens.new_zeros((len(query_lengths), len(of_tokens))).index_add_(0, owner, of_tokens.T)
        ctx.save_for_backward(queries, documents, query_lengths, owner, best, empty)
        return (sums / query_lengths.clamp(min=1)[:, None]).masked_fill_(empty, LOWEST)

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        queries, documents, query_lengths, owner, best, empty = ctx.saved_tensors
        if not len(queries) or not len(documents):
            return torch.zeros_like(queries), None, torch.zeros_like(documents), None, None
        weights = (outputs[0].to(queries.dtype).masked_fill(empty, 0) / query_lengths.clamp(min=1)[:, None])[owner]
        # Every query token has one weight per document: that of the token with which it has the maximum.
        of_queries = _weighted_sums(best.T.contiguous(), documents, weights)
        pairs = best.flatten()
        order = torch.argsort(pairs)
        starts = torch.searchsorted(pairs[order], torch.arange(len(documents), device=pairs.device))
        of_documents = _weighted_sums(order % len(queries), queries, weights.T.flatten()[order], starts)
        return of_queries, None, of_documents, None, None


def _weighted_sums(rows: Tensor, vectors: Tensor, weights: Tensor, starts: Tensor | None = None) -> Tensor:
    """Return the weighted sum of `vectors[rows]` of each row of `rows`, or of each segment of it from `starts`."""
    return nn.functional.embedding_bag(rows, vectors, starts, mode="sum", per_sample_weights=weights)


def _blocks(lengths: Tensor, *, query_tokens: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of documents: their slice, and the rows of their tokens [documents, longest]."""
    most = (_BLOCK_SCORES if lengths.device.type == "cpu" else _BLOCK_SCORES_GPU) // max(query_tokens, 1)
    starts = torch.cumsum(lengths, dim=0) - lengths
    counts: list[int] = lengths.tolist()
    first = 0
    while first < len(counts):
        last, longest = first + 1, max(counts[first], 1)
        while last < len(counts) and max(longest, counts[last]) * (last + 1 - first) <= most:
            longest = max(longest, counts[last])
            last += 1
        columns = slice(first, last)
        within = torch.minimum(
            torch.arange(longest, device=lengths.device)[None, :], (lengths[columns, None] - 1).clamp(min=0)
        )
        if any(counts[columns]):
            # The start of an empty document behind the last token is no row.
            yield columns, (starts[columns, None] + within).clamp(max=sum(counts) - 1)
        first = last
