"""Which filter refuses each candidate, and the scores that tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.mining import filters
from llama_index_ace_finetune.mining.candidates import Candidates, Ragged
from llama_index_ace_finetune.mining.settings import MiningSettings

_VALUES_AT_ONCE = 8_000_000  # 32 MB of gathered vectors


@dataclass(frozen=True)
class SimilarityBlock:
    """The queries from `first` to before `last` (b of them), with w candidates and at most p right answers each.

    Attributes:
        right: int64 [b, p], corpus rows of the right answers, filled by -1.
        query: float32 [b, w], cosines of the candidates with the query.
        nearest: float32 [b, w], largest cosine of a candidate with a right answer, -inf where there is none.
        positive: float32 [b, p], cosines of the right answers with the query, NaN where `right` is -1.
    """

    first: int
    last: int
    right: NDArray[np.int64]
    query: NDArray[np.float32]
    nearest: NDArray[np.float32]
    positive: NDArray[np.float32]

    @property
    def least_positive(self) -> NDArray[np.float32]:
        """Least cosine of a right answer with the query, float32 [b], NaN where there is none."""
        least = np.where(self.right < 0, np.float32(np.inf), self.positive).min(axis=1, initial=np.inf)
        return np.asarray(np.where(np.isinf(least), np.nan, least), np.float32)


def similarity_blocks(
    query_vectors: NDArray[np.float32],
    corpus_vectors: NDArray[np.float32],
    rows: NDArray[np.int32],
    relevant: Ragged,
) -> Iterator[SimilarityBlock]:
    """Yield the cosines of all queries, in blocks of queries that need some tens of megabytes.

    Args:
        query_vectors: unit rows [n, d].
        corpus_vectors: unit rows [m, d].
        rows: candidates int [n, w]; what stands at negative rows is of no meaning in the result.
        relevant: the right answers of the n queries.
    """
    width, dimension = rows.shape[1], query_vectors.shape[1]
    most = int(relevant.counts.max(initial=0))
    size = max(1, _VALUES_AT_ONCE // max(1, (width + most) * dimension + width * most))
    for first in range(0, len(rows), size):
        last = min(first + size, len(rows))
        right = relevant.padded(first, last)
        queries = query_vectors[first:last]
        candidates = corpus_vectors[np.maximum(rows[first:last], 0)]
        answers = corpus_vectors[np.maximum(right, 0)]
        absent = right < 0
        # einsum adds up each pair by itself, so a cosine does not depend on the queries beside it, as in a product
        # of matrices it would.
        positive = np.einsum("bpd,bd->bp", answers, queries)
        positive[absent] = np.nan
        between = np.einsum("bwd,bpd->bwp", candidates, answers)
        yield SimilarityBlock(
            first=first,
            last=last,
            right=right,
            query=np.einsum("bwd,bd->bw", candidates, queries),
            nearest=np.where(absent[:, None, :], -np.inf, between).max(axis=2, initial=-np.inf).astype(np.float32),
            positive=positive,
        )


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
