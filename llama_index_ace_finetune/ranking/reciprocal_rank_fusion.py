"""Reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RRF_K = 60
# Hits per leg that are fused, in evaluation and in serving alike, so that the served ranking is the evaluated one.
FUSION_DEPTH = 100


@dataclass(frozen=True, slots=True)
class FusedHit:
    """One row of a fused ranking.

    `score` is the RRF score; `scaled` is the score divided by the largest possible one, so in [0, 1]; `ranks` holds the
    rank in each leg, from 1, or None if the leg did not return the row.
    """

    row: int
    score: float
    scaled: float
    ranks: tuple[int | None, ...]


def reciprocal_rank_fusion(
    legs: Sequence[Sequence[int]], *, weights: Sequence[float] | None = None, k: int = RRF_K, limit: int | None = None
) -> list[FusedHit]:
    """Fuse rankings of one query: score = sum over legs of weight / (k + rank), with rank from 1.

    A leg is one retriever of a hybrid, such as dense or BM25. A row counts once per leg, at its best rank; a leg that
    did not return a row adds 0 to its score; legs with weight 0 add no rows. Ties are ordered by row number.

    Source: Cormack, Clarke, Buettcher, "Reciprocal rank fusion outperforms Condorcet", SIGIR 2009.

    Args:
        legs: one sequence of row numbers per leg, best first; -1 is padding.
        weights: one weight per leg, 1 each by default.
        k: the constant of the paper.
        limit: maximum number of fused rows; all by default.
    """
    weights = [1.0] * len(legs) if weights is None else list(weights)
    if len(weights) != len(legs):
        raise ValueError(f"{len(legs)} legs need as many weights, not {len(weights)}")
    scores: dict[int, float] = {}
    ranks: dict[int, list[int | None]] = {}
    for leg, (rows, weight) in enumerate(zip(legs, weights, strict=True)):
        if weight <= 0:
            continue
        rank = 0
        for row in rows:
            if row < 0:
                continue
            seen = ranks.setdefault(row, [None] * len(legs))
            if seen[leg] is not None:
                continue
            rank += 1
            seen[leg] = rank
            scores[row] = scores.get(row, 0.0) + weight / (k + rank)
    best = sum(weight for weight in weights if weight > 0) / (k + 1)
    order = sorted(scores, key=lambda row: (-round(scores[row], 12), row))[:limit]
    return [
        FusedHit(row=row, score=scores[row], scaled=min(1.0, scores[row] / best), ranks=tuple(ranks[row]))
        for row in order
    ]


def fuse_rankings(
    legs: Sequence[NDArray[np.int32]], *, weights: Sequence[float] | None = None, k: int = RRF_K, limit: int = 100
) -> NDArray[np.int32]:
    """Fuse the rankings of many queries: `reciprocal_rank_fusion` for each row.

    Args:
        legs: per leg an int array [n, depth], best first, padded with -1; without duplicates in a row.
        weights: one weight per leg, 1 each by default.
        k: the constant of the paper.
        limit: columns of the result.

    Returns:
        int32 array [n, limit], padded with -1.
    """
    weights = [1.0] * len(legs) if weights is None else list(weights)
    used = [(leg, weight) for leg, weight in zip(legs, weights, strict=True) if weight > 0]
    fused = np.full((len(legs[0]), limit), -1, np.int32)
    if not used:
        return fused
    rows = np.concatenate([leg for leg, _ in used], axis=1).astype(np.int64)
    gains = np.concatenate(
        [np.broadcast_to(weight / (k + 1.0 + np.arange(leg.shape[1])), leg.shape) for leg, weight in used], axis=1
    )
    for query in range(len(rows)):
        valid = rows[query] >= 0
        distinct, inverse = np.unique(rows[query][valid], return_inverse=True)
        totals = np.bincount(inverse, weights=gains[query][valid], minlength=len(distinct))
        # `distinct` is ascending, so a stable sort by score orders ties by row number. Rounding keeps mathematically
        # equal sums equal in floating point, whatever the order of the legs.
        order = np.argsort(-np.round(totals, 12), kind="stable")[:limit]
        fused[query, : len(order)] = distinct[order]
    return fused
