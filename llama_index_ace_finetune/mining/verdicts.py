"""Which filter refuses each candidate, and the scores that tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.mining import filters
from llama_index_ace_finetune.mining.candidates import Candidates
from llama_index_ace_finetune.mining.ragged import Ragged
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.similarities import similarity_blocks

Rescore = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Scores float32 [e] of e pairs, from query numbers and corpus rows, int64 [e] each."""

_PASSES, _EMPTY = 0, 255
_CODES = {name: code for code, name in enumerate(filters.FILTERS, start=1)}


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on w candidates of each of n queries.

    Attributes:
        reasons: uint8 [n, w]: 0 passes, 255 is no candidate, others are places in `filters.FILTERS`, from 1. The
            relaxation changes it in place.
        scores: what margins go by, float32 [n, w]: cosines with the query, or a teacher's scores, NaN where it was
            not asked.
        positives: scores of all right answers, float32 [total], query by query.
        least: the least of them per query, float32 [n], NaN for a query without one.
        active: the filters that were applied, in order.
        by_teacher: whether the scores are a teacher's.
    """

    reasons: NDArray[np.uint8]
    scores: NDArray[np.float32]
    positives: NDArray[np.float32]
    least: NDArray[np.float32]
    active: tuple[str, ...]
    by_teacher: bool

    @property
    def passing(self) -> NDArray[np.bool_]:
        """Candidates that no filter refuses, bool [n, w]."""
        return np.asarray(self.reasons == _PASSES)

    def refused_by(self, name: str) -> NDArray[np.bool_]:
        """Candidates that this filter refuses, bool [n, w]."""
        return np.asarray(self.reasons == _CODES[name])

    def loosen(self, queries: NDArray[np.int64], margin: float | None) -> NDArray[np.bool_]:
        """Let pass, for these queries, what a looser relative margin does not refuse (None: all that it refused).

        Returns:
            What passes since, bool [queries, w].
        """
        opened = self.refused_by(filters.RELATIVE_MARGIN)[queries]
        if margin is not None:
            opened &= ~filters.relative_margin(self.scores[queries], self.least[queries], margin)
        query, column = np.nonzero(opened)
        self.reasons[queries[query], column] = _PASSES
        return opened


def judge_candidates(
    candidates: Candidates,
    *,
    query_vectors: NDArray[np.float32],
    corpus_vectors: NDArray[np.float32],
    right: Ragged,
    excluded: NDArray[np.bool_] | None,
    rescore: Rescore | None,
    settings: MiningSettings,
) -> Verdicts:
    """Apply every filter that is on, in the order of `filters.FILTERS`; see `mine_negatives` for the arguments."""
    rows, judged = candidates.rows, candidates.judged
    reasons = np.where(candidates.filled, _PASSES, _EMPTY).astype(np.uint8)
    scores = np.empty(rows.shape, np.float32)
    positives = np.empty(len(right.values), np.float32)
    active: list[str] = []

    def refuse(name: str, mask: NDArray[np.bool_], block: slice = slice(None)) -> None:
        part = reasons[block]
        part[(part == _PASSES) & mask] = _CODES[name]
        active.extend([] if name in active else [name])

    for block in similarity_blocks(query_vectors, corpus_vectors, rows, right):
        part = slice(block.first, block.last)
        scores[part] = block.query
        positives[right.starts[block.first] : right.starts[block.last]] = block.positive[block.right >= 0]
        refuse(filters.RIGHT_ANSWER, filters.right_answer(rows[part], block.right), part)
        if excluded is not None:
            refuse(filters.HELD_OUT_ANSWER, filters.held_out_answer(rows[part], excluded), part)
        near = filters.near_duplicate(block.nearest, settings.near_duplicate)
        refuse(filters.NEAR_DUPLICATE, near & ~judged[part], part)
        if settings.nearer_answer is not None:
            nearer = filters.nearer_answer(block.nearest, block.least_positive, settings.nearer_answer)
            refuse(filters.NEARER_ANSWER, nearer & ~judged[part], part)
    if settings.range_min:
        refuse(filters.RANK_WINDOW, filters.rank_window(candidates.ranks.min(axis=0), settings.range_min) & ~judged)
    if rescore is not None:
        scores, positives = _rescored(reasons == _PASSES, rows, right, rescore)
    least = _least_positive(positives, right)
    if settings.max_score is not None:
        refuse(filters.MAXIMUM_SCORE, filters.maximum_score(scores, settings.max_score) & ~judged)
    if settings.absolute_margin is not None:
        refuse(filters.ABSOLUTE_MARGIN, filters.absolute_margin(scores, least, settings.absolute_margin) & ~judged)
    if settings.relative_margin is not None:
        refuse(filters.RELATIVE_MARGIN, filters.relative_margin(scores, least, settings.relative_margin) & ~judged)
    return Verdicts(reasons, scores, positives, least, tuple(active), by_teacher=rescore is not None)


def _rescored(
    still_open: NDArray[np.bool_], rows: NDArray[np.int32], right: Ragged, rescore: Rescore
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Ask a teacher, in one go, for the candidates that are still open and for all right answers."""
    query, column = np.nonzero(still_open)
    given = rescore(np.concatenate([right.owners, query]), np.concatenate([right.values, rows[query, column]]))
    if not np.isfinite(given).all():
        raise ModelError("The teacher gives NaN or infinite scores; its weights are broken, give another model.")
    scores = np.full(rows.shape, np.nan, np.float32)
    scores[query, column] = given[len(right.values) :]
    return scores, given[: len(right.values)]


def _least_positive(positives: NDArray[np.float32], right: Ragged) -> NDArray[np.float32]:
    least = np.full(len(right.counts), np.inf, np.float32)
    np.minimum.at(least, right.owners, positives)
    return np.where(right.counts > 0, least, np.float32(np.nan))
