"""Rankings without the query's own document, for queries that are documents of the corpus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.copies import Copies

NO_ROW = -1
"""The row for a query that is not a document of the corpus."""


def own_hits(own: NDArray[np.int64] | None, copies: Copies | None = None) -> int:
    """Return how many hits of a query can be its own document, or a copy of it."""
    if own is None or copies is None:
        return int(own is not None)
    return int(copies.counts[own[own >= 0]].max(initial=1))


def without_own(
    rankings: NDArray[np.int32],
    own: NDArray[np.int64] | None,
    *,
    limit: int,
    scores: NDArray[np.floating] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.floating] | None]:
    """Return the first `limit` hits of each query without its own document; later hits move up.

    Args:
        rankings: corpus rows int32 [n, depth], best first, padded with -1.
        own: row of each query's own document, int64 [n], -1 without one; None if no query has one.
        limit: hits to keep; the rankings need `limit + own_hits(own, ...)` columns to fill it.
        scores: scores of the hits, float [n, depth].
    """
    if own is not None:
        hit = (rankings == own[:, None]) & (own[:, None] >= 0)
        order = np.argsort(hit, axis=1, kind="stable")
        rankings = np.where(np.take_along_axis(hit, order, 1), -1, np.take_along_axis(rankings, order, 1))
        rankings = rankings.astype(np.int32)
        if scores is not None:
            scores = np.take_along_axis(scores, order, 1)
    return rankings[:, :limit], None if scores is None else scores[:, :limit]
