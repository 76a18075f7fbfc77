"""Softmax cross-entropy of queries over a corpus whose vectors do not change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PADDING = -1


def full_corpus_loss(
    query_embeddings: Tensor,
    document_vectors: Tensor,
    positive_rows: Tensor,
    *,
    temperature: float,
    own_rows: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the (weighted) mean over queries of the contrastive loss of each query's positives, against all documents.

    For a query with positive rows P, s = q . d / temperature:
        loss = mean over p in P of -log( exp(s_p) / (exp(s_p) + sum over n not in P of exp(s_n)) )
    so that positives never compete with each other. It is `masked_ranking_loss` where every other document is
    a negative; the gradient is computed in the forward pass, since documents take none, and one matrix
    [queries, documents] is all the memory that is needed.

    Args:
        query_embeddings: float tensor [queries, d], unit rows.
        document_vectors: float tensor [documents, d], unit rows; no gradient flows into them.
        positive_rows: int64 tensor [queries, p]: distinct rows of `document_vectors`, padded with PADDING.
        temperature: divisor of the inner products.
        own_rows: int64 tensor [queries]: a row that is neither positive nor negative for the query, or PADDING.
        weights: of the queries, float tensor [queries], above 0; None if they are equal.

    Returns:
        Scalar tensor. Queries without a positive do not count; 0 if none has one.
    """
    return _FullCorpusLoss.apply(  # type: ignore[no-any-return, no-untyped-call]
        query_embeddings, document_vectors, positive_rows, temperature, own_rows, weights
    )


class _FullCorpusLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        documents: Tensor,
        positive_rows: Tensor,
        temperature: float,
        own_rows: Tensor | None,
        weights: Tensor | None,
    ) -> Tensor:
        # The caller may train in bfloat16; at small temperatures the softmax needs full precision.
        with torch.autocast(queries.device.type, enabled=False):
            documents = documents.to(queries.dtype)
            scores = (queries @ documents.T).div_(temperature)
            owner, place = torch.nonzero(positive_rows != PADDING, as_tuple=True)
            row = positive_rows[owner, place]
            right = scores[owner, row]
            # The smallest finite number, not -inf: a query may have no negative at all.
            scores[owner, row] = torch.finfo(scores.dtype).min / 4
            if own_rows is not None:
                of_query = torch.nonzero(own_rows != PADDING, as_tuple=True)[0]
                scores[of_query, own_rows[of_query]] = torch.finfo(scores.dtype).min / 4
            wrong = torch.logsumexp(scores, dim=1)
            answers = torch.bincount(owner, minlength=len(queries))
            if weights is None:
                weight = 1 / (answers[owner] * (answers > 0).sum()).to(scores.dtype)
            else:
                weight = (weights[owner] / (answers[owner] * weights[answers > 0].sum())).to(scores.dtype)
            margin = wrong[owner] - right
            loss = (nn.functional.softplus(margin) * weight).sum()
            # d loss / d s_p = -weight * sigmoid(margin), and a negative takes its softmax part of the sum.
            pull = torch.sigmoid(margin) * weight
            push = torch.zeros_like(wrong).index_add_(0, owner, pull)
            scores.sub_(wrong[:, None]).exp_().mul_(push[:, None])
            scores[owner, row] = -pull
            ctx.save_for_backward((scores @ documents).div_(temperature))
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0], None, None, None, None, None


def pad_rows(rows: Sequence[NDArray[np.int64]]) -> Tensor:
    """Return the row numbers of each query as one int64 tensor [n, most], padded with PADDING, each row once."""
    distinct = [np.unique(of_query) for of_query in rows]
    padded = np.full((len(rows), max((len(of_query) for of_query in distinct), default=0)), PADDING, np.int64)
    for place, of_query in enumerate(distinct):
        padded[place, : len(of_query)] = of_query
    return torch.from_numpy(padded)


def nearest_part(document_rows: Tensor, positive_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of a large corpus that one batch is compared with.

    It is the union, over the queries of the batch, of their nearest rows and their positive rows, so a query has its
    own hardest negatives and, as random ones, those of all others.

    Args:
        document_rows: int64 [queries, k], the nearest rows of each query.
        positive_rows: int64 [queries, p], padded with PADDING.

    Returns:
        The rows of the part, int64 [part], ascending, and `positive_rows` as positions in it.
    """
    real = positive_rows != PADDING
    part = torch.unique(torch.cat([document_rows.flatten(), positive_rows[real]]))
    places = torch.full_like(positive_rows, PADDING)
    places[real] = torch.searchsorted(part, positive_rows[real])
    return part, places


def places_in(part: Tensor, rows: Tensor) -> Tensor:
    """Return the positions of `rows`, int64 [n], in the ascending `part`, int64 [p], PADDING if absent."""
    places = torch.searchsorted(part, rows).clamp(max=len(part) - 1)
    return torch.where(part[places] == rows, places, PADDING)


def nearest_rows(queries: Tensor, documents: Tensor, k: int, *, tile: int = 1024) -> Tensor:
    """Return the k rows of `documents` [m, d] with the largest inner product per row of `queries`, int64 [n, k]."""
    k = min(k, len(documents))
    if not len(queries):
        return torch.empty((0, k), dtype=torch.int64)
    return torch.cat(
        [(block @ documents.T).topk(k, dim=1, sorted=False).indices for block in torch.split(queries, tile)]
    )
