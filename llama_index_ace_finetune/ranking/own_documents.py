"""Rankings without the query's own document, for queries that are documents of the corpus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NO_ROW = -1
"""The row for a query that is not a document of the corpus."""


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
        limit: hits to keep; the rankings need `limit + 1` columns to fill it.
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
