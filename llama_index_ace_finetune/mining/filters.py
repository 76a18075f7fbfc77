"""Filters for candidates. Each takes arrays [queries, candidates] and returns a mask, True for rejected candidates.

b queries with w candidates each: `rows` are corpus rows int [b, w], `scores` are float [b, w], `min_positive` is the
smallest score of a positive per query, float [b], NaN for a query without positives (margins then reject nothing).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Rows = NDArray[np.int32] | NDArray[np.int64]
Scores = NDArray[np.float32] | NDArray[np.float64]

# These names are keys of the mining report and of training_data.json.
UNKNOWN_ID = "unknown id"
KNOWN_POSITIVE = "right answer"
HELD_OUT = "held-out answer"
NEAR_DUPLICATE = "near-duplicate"
CLOSER_TO_POSITIVE = "nearer a right answer than the query"
RANK_WINDOW = "outside the rank window"
MAXIMUM_SCORE = "above the maximum score"
ABSOLUTE_MARGIN = "above the absolute margin"
RELATIVE_MARGIN = "above the relative margin"

FILTERS = (
    KNOWN_POSITIVE,
    HELD_OUT,
    NEAR_DUPLICATE,
    CLOSER_TO_POSITIVE,
    RANK_WINDOW,
    MAXIMUM_SCORE,
    ABSOLUTE_MARGIN,
    RELATIVE_MARGIN,
)
"""In the order of application: a candidate is counted for the first filter that rejects it."""

FILTER_LABELS = {
    KNOWN_POSITIVE: "known positive",
    HELD_OUT: "held-out positive",
    CLOSER_TO_POSITIVE: "closer to a positive than the query",
}
"""What people read instead of the keys that 0.1.0 wrote."""


def known_positive(rows: Rows, relevant: Rows) -> Mask:
    """Known positives: rows in the query's `relevant`, int [b, p], padded with -1."""
    return np.asarray((rows[:, :, None] == relevant[:, None, :]).any(axis=2)) & (rows >= 0)


def held_out(rows: Rows, excluded: Mask) -> Mask:
    """Rows marked in `excluded`, bool [m]: positives of held-out queries, which are used for evaluation."""
    if not len(excluded):
        return np.zeros(rows.shape, np.bool_)
    return np.asarray(excluded[np.maximum(rows, 0)]) & (rows >= 0)


def near_duplicate(max_positive_similarity: Scores, threshold: float) -> Mask:
    """Near-duplicates of a positive; `max_positive_similarity` is the largest cosine with a positive, [b, w]."""
    return np.asarray(max_positive_similarity >= threshold)


def closer_to_positive(max_positive_similarity: Scores, min_positive: Scores, fraction: float) -> Mask:
    """Candidates more similar to a positive than `fraction` of the smallest cosine of the query with a positive.

    A candidate that is closer to a positive than the query is, is probably a positive too.
    Source: the guide of GISTEmbed (Solatorio 2024, arXiv:2402.16829), with the model itself as the guide.
    """
    lowest = min_positive.astype(np.float64)
    limit = lowest - np.abs(lowest) * (1 - fraction)
    return np.asarray(max_positive_similarity.astype(np.float64) > limit[:, None])


def rank_window(best_rank: NDArray[np.int32], range_min: int) -> Mask:
    """Candidates in the first `range_min` ranks of any source; `best_rank` is the best over sources, int [b, w]."""
    return np.asarray(best_rank <= range_min)


def maximum_score(scores: Scores, limit: float) -> Mask:
    """Candidates that score above `limit`."""
    return np.asarray(scores.astype(np.float64) > limit)


def absolute_margin(scores: Scores, min_positive: Scores, margin: float) -> Mask:
    """Candidates that score above pos - margin."""
    limit = min_positive.astype(np.float64) - margin
    return np.asarray(scores.astype(np.float64) > limit[:, None])


def relative_margin(scores: Scores, min_positive: Scores, margin: float) -> Mask:
    """Candidates that score above pos - |pos| * margin, a limit below the positive even if scores are negative.

    Source: `sentence_transformers.util.mine_hard_negatives`; "perc-pos" of NV-Retriever (Moreira et al. 2024,
    arXiv:2407.15831) with 1 - margin as the percentage.
    """
    lowest = min_positive.astype(np.float64)
    limit = lowest - np.abs(lowest) * margin
    return np.asarray(scores.astype(np.float64) > limit[:, None])
