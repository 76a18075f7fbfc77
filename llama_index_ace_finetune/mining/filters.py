"""The rules that refuse a candidate. Each takes arrays [queries, candidates] and returns True where it refuses.

b queries with w candidates each: `rows` are corpus rows int [b, w], `scores` are float [b, w], `positive` is the least
score among each query's right answers, float [b], NaN for a query without one (margins then refuse nothing).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Rows = NDArray[np.int32] | NDArray[np.int64]
Scores = NDArray[np.float32] | NDArray[np.float64]

UNKNOWN_ID = "unknown id"
RIGHT_ANSWER = "right answer"
HELD_OUT_ANSWER = "held-out answer"
NEAR_DUPLICATE = "near-duplicate"
NEARER_ANSWER = "nearer a right answer than the query"
RANK_WINDOW = "outside the rank window"
MAXIMUM_SCORE = "above the maximum score"
ABSOLUTE_MARGIN = "above the absolute margin"
RELATIVE_MARGIN = "above the relative margin"

FILTERS = (
    RIGHT_ANSWER,
    HELD_OUT_ANSWER,
    NEAR_DUPLICATE,
    NEARER_ANSWER,
    RANK_WINDOW,
    MAXIMUM_SCORE,
    ABSOLUTE_MARGIN,
    RELATIVE_MARGIN,
)
"""In the order in which they are applied: a candidate counts for the first one that refuses it."""


def right_answer(rows: Rows, right: Rows) -> Mask:
    """Known to be right: among the query's rows of `right`, int [b, p], filled by -1."""
    return np.asarray((rows[:, :, None] == right[:, None, :]).any(axis=2)) & (rows >= 0)


def held_out_answer(rows: Rows, excluded: Mask) -> Mask:
    """Marked in `excluded`, bool [m]: right for a query that something is measured on later."""
    if not len(excluded):
        return np.zeros(rows.shape, np.bool_)
    return np.asarray(excluded[np.maximum(rows, 0)]) & (rows >= 0)


def near_duplicate(nearest: Scores, threshold: float) -> Mask:
    """So close to a right answer that it is taken for it; `nearest` is the largest cosine with one, [b, w]."""
    return np.asarray(nearest >= threshold)


def nearer_answer(nearest: Scores, positive: Scores, share: float) -> Mask:
    """Closer to a right answer than `share` of the query's own cosine with its least right one.

    Where the answers to one question lie close together, what lies closer still is probably one of them.
    Source: the guide of GISTEmbed (Solatorio 2024, arXiv:2402.16829), with the model itself as the guide.
    """
    least = positive.astype(np.float64)
    limit = least - np.abs(least) * (1 - share)
    return np.asarray(nearest.astype(np.float64) > limit[:, None])


def rank_window(best_rank: NDArray[np.int32], range_min: int) -> Mask:
    """Among the first `range_min` ranks of some source; `best_rank` is the best over the sources, int [b, w]."""
    return np.asarray(best_rank <= range_min)


def maximum_score(scores: Scores, limit: float) -> Mask:
    """Scored above `limit`."""
    return np.asarray(scores.astype(np.float64) > limit)


def absolute_margin(scores: Scores, positive: Scores, margin: float) -> Mask:
    """Scored above pos - margin."""
    limit = positive.astype(np.float64) - margin
    return np.asarray(scores.astype(np.float64) > limit[:, None])


def relative_margin(scores: Scores, positive: Scores, margin: float) -> Mask:
    """Scored above pos - |pos| * margin, which lies below the positive for negative scores too.

    Source: `sentence_transformers.util.mine_hard_negatives`; "perc-pos" of NV-Retriever (Moreira et al. 2024,
    arXiv:2407.15831) with 1 - margin as its percentage.
    """
    least = positive.astype(np.float64)
    limit = least - np.abs(least) * margin
    return np.asarray(scores.astype(np.float64) > limit[:, None])
