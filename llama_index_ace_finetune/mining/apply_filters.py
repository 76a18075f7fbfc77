"""Applies the filters to candidates and computes the scores that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.mining import filters
from llama_index_ace_finetune.mining.candidates import Candidates, Ragged
from llama_index_ace_finetune.mining.settings import MiningSettings

_VALUES_PER_BLOCK = 8_000_000  # 32 MB of gathered vectors


@dataclass(frozen=True)
class SimilarityBlock:
    """Cosines of the b queries `first` to `last` (exclusive), with w candidates and at most p positives each.

    Attributes:
        relevant: int64 [b, p], corpus rows of the positives, padded with -1.
        query: float32 [b, w], cosines of the candidates with the query.
        max_positive_similarity: float32 [b, w], largest cosine of a candidate with a positive,
            -inf without a positive.
        positive: float32 [b, p], cosines of the positives with the query, NaN if `relevant` is -1.
    """

    first: int
    last: int
    relevant: NDArray[np.int64]
    query: NDArray[np.float32]
    max_positive_similarity: NDArray[np.float32]
    positive: NDArray[np.float32]

    @property
    def min_positive_score(self) -> NDArray[np.float32]:
        """Smallest cosine of a positive with the query, float32 [b], NaN without a positive."""
        min_positive = np.where(self.relevant < 0, np.float32(np.inf), self.positive).min(axis=1, initial=np.inf)
        return np.asarray(np.where(np.isinf(min_positive), np.nan, min_positive), np.float32)


def similarity_blocks(
    query_vectors: NDArray[np.float32],
    corpus_vectors: NDArray[np.float32],
    rows: NDArray[np.int32],
    relevant: Ragged,
) -> Iterator[SimilarityBlock]:
    """Yield the cosines of all queries in blocks; each block needs some tens of megabytes.

    Args:
        query_vectors: unit rows [n, d].
        corpus_vectors: unit rows [m, d].
        rows: candidates int [n, w]; results for negative row numbers are meaningless.
        relevant: corpus rows of the positives of the n queries.
    """
    width, dimension = rows.shape[1], query_vectors.shape[1]
    most = int(relevant.counts.max(initial=0))
    size = max(1, _VALUES_PER_BLOCK // max(1, (width + most) * dimension + width * most))
    for first in range(0, len(rows), size):
        last = min(first + size, len(rows))
        positive_rows = relevant.padded(first, last)
        queries = query_vectors[first:last]
        candidates = corpus_vectors[np.maximum(rows[first:last], 0)]
        positives = corpus_vectors[np.maximum(positive_rows, 0)]
        absent = positive_rows < 0
        # einsum sums each pair separately, so a cosine does not depend on the other queries of the block; in a
        # matrix product it would.
        positive = np.einsum("bpd,bd->bp", positives, queries)
        positive[absent] = np.nan
        between = np.where(absent[:, None, :], -np.inf, np.einsum("bwd,bpd->bwp", candidates, positives))
        yield SimilarityBlock(
            first=first,
            last=last,
            relevant=positive_rows,
            query=np.einsum("bwd,bd->bw", candidates, queries),
            max_positive_similarity=between.max(axis=2, initial=-np.inf).astype(np.float32),
            positive=positive,
        )


Rescore = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Teacher scores float32 [e] of e pairs, given query numbers and corpus rows, int64 [e] each."""

_ACCEPTED, _PADDING = 0, 255
_CODES = {name: code for code, name in enumerate(filters.FILTERS, start=1)}


@dataclass(frozen=True)
class FilterResult:
    """Result of the filters for w candidates of each of n queries.

    Attributes:
        reasons: uint8 [n, w]: 0 is accepted, 255 is padding, other values are positions in `filters.FILTERS`, from 1.
            The margin back-off changes it in place.
        scores: scores that the margins use, float32 [n, w]: cosines with the query, or teacher scores, NaN if the
            teacher did not score the candidate.
        positives: scores of all positives, float32 [total], query by query.
        min_positive: smallest score of a positive per query, float32 [n], NaN for a query without positives.
        active: names of the applied filters, in order.
        by_teacher: whether the scores are teacher scores.
    """

    reasons: NDArray[np.uint8]
    scores: NDArray[np.float32]
    positives: NDArray[np.float32]
    min_positive: NDArray[np.float32]
    active: tuple[str, ...]
    by_teacher: bool

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Candidates that every filter accepts, bool [n, w]."""
        return np.asarray(self.reasons == _ACCEPTED)

    def rejected_by(self, name: str) -> NDArray[np.bool_]:
        """Candidates that this filter rejects, bool [n, w]."""
        return np.asarray(self.reasons == _CODES[name])

    def readmit(self, queries: NDArray[np.int64], margin: float | None) -> NDArray[np.bool_]:
        """Accept candidates of these queries that a smaller relative margin does not reject (None: no margin).

        Returns:
            The re-admitted candidates, bool [queries, w].
        """
        readmitted = self.rejected_by(filters.RELATIVE_MARGIN)[queries]
        if margin is not None:
            readmitted &= ~filters.relative_margin(self.scores[queries], self.min_positive[queries], margin)
        query, column = np.nonzero(readmitted)
        self.reasons[queries[query], column] = _ACCEPTED
        return readmitted


def apply_filters(
    candidates: Candidates,
    *,
    query_vectors: NDArray[np.float32],
    corpus_vectors: NDArray[np.float32],
    relevant: Ragged,
    excluded: NDArray[np.bool_] | None,
    rescore: Rescore | None,
    settings: MiningSettings,
) -> FilterResult:
    """Apply all enabled filters, in the order of `filters.FILTERS`; see `mine_negatives` for the arguments."""
    rows, judged = candidates.rows, candidates.judged
    reasons = np.where(candidates.filled, _ACCEPTED, _PADDING).astype(np.uint8)
    scores = np.empty(rows.shape, np.float32)
    positives = np.empty(len(relevant.values), np.float32)
    active: list[str] = []

    def reject(name: str, mask: NDArray[np.bool_], block: slice = slice(None)) -> None:
        part = reasons[block]
        part[(part == _ACCEPTED) & mask] = _CODES[name]
        active.extend([] if name in active else [name])

    for block in similarity_blocks(query_vectors, corpus_vectors, rows, relevant):
        part = slice(block.first, block.last)
        scores[part] = block.query
        positives[relevant.starts[block.first] : relevant.starts[block.last]] = block.positive[block.relevant >= 0]
        reject(filters.KNOWN_POSITIVE, filters.known_positive(rows[part], block.relevant), part)
        if excluded is not None:
            reject(filters.HELD_OUT, filters.held_out(rows[part], excluded), part)
        near = filters.near_duplicate(block.max_positive_similarity, settings.near_duplicate)
        reject(filters.NEAR_DUPLICATE, near & ~judged[part], part)
        if settings.nearer_answer is not None:
            closer = filters.closer_to_positive(
                block.max_positive_similarity, block.min_positive_score, settings.nearer_answer
            )
            reject(filters.CLOSER_TO_POSITIVE, closer & ~judged[part], part)
    if settings.range_min:
        reject(filters.RANK_WINDOW, filters.rank_window(candidates.ranks.min(axis=0), settings.range_min) & ~judged)
    if rescore is not None:
        scores, positives = _rescored(reasons == _ACCEPTED, rows, relevant, rescore)
    min_positive = _min_positive_scores(positives, relevant)
    if settings.max_score is not None:
        reject(filters.MAXIMUM_SCORE, filters.maximum_score(scores, settings.max_score) & ~judged)
    if settings.absolute_margin is not None:
        reject(
            filters.ABSOLUTE_MARGIN, filters.absolute_margin(scores, min_positive, settings.absolute_margin) & ~judged
        )
    if settings.relative_margin is not None:
        reject(
            filters.RELATIVE_MARGIN, filters.relative_margin(scores, min_positive, settings.relative_margin) & ~judged
        )
    return FilterResult(reasons, scores, positives, min_positive, tuple(active), by_teacher=rescore is not None)


def _rescored(
    accepted: NDArray[np.bool_], rows: NDArray[np.int32], relevant: Ragged, rescore: Rescore
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Score all positives and the accepted candidates with the teacher, in one call."""
    query, column = np.nonzero(accepted)
    given = rescore(np.concatenate([relevant.owners, query]), np.concatenate([relevant.values, rows[query, column]]))
    if not np.isfinite(given).all():
        raise ModelError("The teacher gives NaN or infinite scores; its weights are broken, give another model.")
    scores = np.full(rows.shape, np.nan, np.float32)
    scores[query, column] = given[len(relevant.values) :]
    return scores, given[: len(relevant.values)]


def _min_positive_scores(positives: NDArray[np.float32], relevant: Ragged) -> NDArray[np.float32]:
    min_positive = np.full(len(relevant.counts), np.inf, np.float32)
    np.minimum.at(min_positive, relevant.owners, positives)
    return np.where(relevant.counts > 0, min_positive, np.float32(np.nan))
