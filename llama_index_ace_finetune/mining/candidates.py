"""Candidates for hard negatives, merged per query from the rankings of all sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.mining.sources import PADDING, UNKNOWN, CandidateSource, Rankings


@dataclass(frozen=True)
class Ragged:
    """Corpus rows per query in CSR form: all rows concatenated, int64 [total], and start offsets, int64 [n + 1]."""

    values: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, lists: Sequence[NDArray[np.int64]]) -> Ragged:
        """Concatenate one array per query."""
        starts = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(rows) for rows in lists], out=starts[1:])
        return cls(np.concatenate([np.empty(0, np.int64), *lists]).astype(np.int64), starts)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of rows per query, int64 [n]."""
        return np.diff(self.starts)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Query number of each value, int64 [total]."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def padded(self, first: int, last: int) -> NDArray[np.int64]:
        """Return queries `first` to `last` (exclusive) as a table, int64 [last - first, longest], padded with -1."""
        counts = self.counts[first:last]
        table = np.full((last - first, int(counts.max(initial=0))), -1, np.int64)
        table[np.arange(table.shape[1]) < counts[:, None]] = self.values[self.starts[first] : self.starts[last]]
        return table


JUDGED = "judged"
NOT_FOUND = np.iinfo(np.int32).max
"""Rank of a row in a source that did not return it."""
_QUERY_BLOCK = 4096


@dataclass(frozen=True)
class Candidates:
    """Candidates of n queries from s sources, at most w distinct corpus rows per query.

    Attributes:
        sources: names; the first is always `JUDGED`: negatives labelled in the data, at rank 0.
        rows: int32 [n, w], sorted by best rank over the sources, then by source, then by row; padded with `PADDING`.
        ranks: int32 [s, n, w], from 1, `NOT_FOUND` if a source did not return the row.
        scores: float32 [s, n, w], NaN without a score.
        unknown: int64 [s], number of hits that are not in the corpus.
    """

    sources: tuple[str, ...]
    rows: NDArray[np.int32]
    ranks: NDArray[np.int32]
    scores: NDArray[np.float32]
    unknown: NDArray[np.int64]

    @property
    def filled(self) -> NDArray[np.bool_]:
        """Which entries hold a candidate (are not padding), bool [n, w]."""
        return np.asarray(self.rows != PADDING)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Which candidates are labelled as negatives in the data, bool [n, w]."""
        return np.asarray(self.ranks[0] != NOT_FOUND)

    def of_queries(self, selected: NDArray[np.int64]) -> Candidates:
        """Return the candidates of the selected queries; `unknown` still counts all queries."""
        return Candidates(
            self.sources, self.rows[selected], self.ranks[:, selected], self.scores[:, selected], self.unknown
        )


def gather_candidates(
    sources: Sequence[CandidateSource], queries: int, depth: int, *, judged_negatives: Ragged
) -> Candidates:
    """Retrieve the top `depth` rows per query from every source and merge them without duplicates."""
    numbers = np.arange(queries)
    rankings = [source.search(numbers, depth) for source in sources]
    width = int(judged_negatives.counts.max(initial=0)) + sum(rows.shape[1] for rows, _ in rankings)
    shape = (len(sources) + 1, queries, width)
    merged = Candidates(
        sources=(JUDGED, *(source.name for source in sources)),
        rows=np.full((queries, width), PADDING, np.int32),
        ranks=np.full(shape, NOT_FOUND, np.int32),
        scores=np.full(shape, np.nan, np.float32),
        unknown=np.array([0, *((rows == UNKNOWN).sum() for rows, _ in rankings)], np.int64),
    )
    widest = 0
    for first in range(0, queries, _QUERY_BLOCK):
        last = min(first + _QUERY_BLOCK, queries)
        judged = judged_negatives.padded(first, last)
        parts = [(rows[first:last], scores[first:last]) for rows, scores in rankings]
        widest = max(widest, _merge(judged, parts, merged, first))
    return Candidates(
        merged.sources,
        merged.rows[:, :widest],
        merged.ranks[:, :, :widest],
        merged.scores[:, :, :widest],
        merged.unknown,
    )


def _merge(judged: NDArray[np.int64], parts: Sequence[Rankings], target: Candidates, first: int) -> int:
    """Write the merged candidates of a block into `target`, from query `first` on; return the width of the block."""
    width = [judged.shape[1], *(rows.shape[1] for rows, _ in parts)]
    source_of = np.repeat(np.arange(len(width)), width)
    # Judged negatives get rank 0, before all others.
    rank_of = np.concatenate([np.zeros(width[0], np.int64), *(np.arange(1, each + 1) for each in width[1:])])
    rows = np.concatenate([judged, *(rows for rows, _ in parts)], axis=1)
    scores = np.concatenate([np.full(judged.shape, np.nan, np.float32), *(scores for _, scores in parts)], axis=1)

    query, column = np.nonzero(rows >= 0)
    stride = int(rows.max(initial=0)) + 1
    keys, place = np.unique(query * stride + rows[query, column], return_inverse=True)
    # If a source returns a row more than once, its first hit counts, which has the best rank.
    _, first_hits = np.unique(source_of[column] * len(keys) + place, return_index=True)
    query, column, place = query[first_hits], column[first_hits], place[first_hits]
    ranks = np.full((len(width), len(keys)), NOT_FOUND, np.int32)
    ranks[source_of[column], place] = rank_of[column]
    values = np.full((len(width), len(keys)), np.nan, np.float32)
    values[source_of[column], place] = scores[query, column]

    owner, row = np.divmod(keys, stride)
    order = np.lexsort((row, ranks.argmin(axis=0), ranks.min(axis=0), owner))
    owner = owner[order]
    column = np.arange(len(owner)) - np.searchsorted(owner, owner)
    target.rows[first + owner, column] = row[order]
    target.ranks[:, first + owner, column] = ranks[:, order]
    target.scores[:, first + owner, column] = values[:, order]
    return int(column.max(initial=-1)) + 1
