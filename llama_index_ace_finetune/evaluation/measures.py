"""Measures of one ranking: per query first, mean second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def relevance_of(rankings: NDArray[np.int32], relevant: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Return bool [n, depth]: whether the hit at each place is right.

    Args:
        rankings: corpus rows int [n, depth], best first, padded with -1, each row at most once per query.
        relevant: right corpus rows of each query.
    """
    queries = np.repeat(np.arange(len(relevant), dtype=np.int64), [len(rows) for rows in relevant])
    rows = np.concatenate([np.asarray(r, np.int64) for r in relevant]) if len(relevant) else np.empty(0, np.int64)
    width = int(max(rankings.max(initial=-1), rows.max(initial=-1))) + 2
    keys = np.arange(len(rankings), dtype=np.int64)[:, None] * width + rankings
    right = np.isin(keys, queries * width + rows)
    return np.asarray(right & (rankings >= 0))


@dataclass(frozen=True, slots=True)
class Success:
    """1 if a right answer is among the first k, else 0. What the original and LlamaIndex call recall or hit rate."""

    k: int

    def __str__(self) -> str:
        return f"Success@{self.k}"

    def per_query(self, right: NDArray[np.bool_], answers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return float [n] from `relevance_of` [n, depth] and the number of right answers [n]."""
        return np.asarray(right[:, : self.k].any(axis=1), np.float64)


@dataclass(frozen=True, slots=True)
class Recall:
    """Share of the right answers that are among the first k."""

    k: int

    def __str__(self) -> str:
        return f"Recall@{self.k}"

    def per_query(self, right: NDArray[np.bool_], answers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return float [n] from `relevance_of` [n, depth] and the number of right answers [n]."""
        return np.asarray(right[:, : self.k].sum(axis=1) / np.maximum(answers, 1), np.float64)


@dataclass(frozen=True, slots=True)
class MRR:
    """1 / rank of the first right answer among the first k, 0 where there is none."""

    k: int

    def __str__(self) -> str:
        return f"MRR@{self.k}"

    def per_query(self, right: NDArray[np.bool_], answers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return float [n] from `relevance_of` [n, depth] and the number of right answers [n]."""
        top = right[:, : self.k]
        if not top.shape[1]:
            return np.zeros(len(top))
        return np.where(top.any(axis=1), 1.0 / (top.argmax(axis=1) + 1), 0.0)


Measure = Success | Recall | MRR
HEADLINE: tuple[Measure, ...] = (Success(1), Success(5), MRR(10))


def per_query(
    measure: Measure, rankings: NDArray[np.int32], relevant: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Return the measure of each query, float [n]; an empty ranking counts 0."""
    answers = np.array([len(rows) for rows in relevant], np.int64)
    return measure.per_query(relevance_of(rankings, relevant), answers)
