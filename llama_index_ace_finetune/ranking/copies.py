"""Copies: which memories of a store share a text, for rankings over distinct texts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Copies:
    """The memories of a store by the row of their text in a corpus of distinct texts.

    A store holds every copy of a text, so copies count in BM25's statistics and in the depth of a leg.

    Attributes:
        rows: the corpus row of each memory, int64 [memories], memories ordered by id. Every row occurs, and first
            occurrences ascend.
    """

    rows: NDArray[np.int64]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of memories of each corpus row, int64 [m]."""
        return np.bincount(self.rows).astype(np.int64)

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """The first memory of each corpus row, int64 [m]."""
        return np.asarray(self._by_row[self._starts], np.int64)

    def memories(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the memories of some corpus rows, row after row, int64 [sum of their counts]."""
        counts = self.counts[rows]
        before = np.cumsum(counts) - counts
        places = np.repeat(self._starts[rows] - before, counts) + np.arange(counts.sum())
        return np.asarray(self._by_row[places], np.int64)

    def corpus_rows(self, memories: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the corpus row of each memory in rankings, int32 [n, depth]; padding of -1 stays."""
        return np.where(memories >= 0, self.rows[memories], -1).astype(np.int32)

    def expand(self, rankings: NDArray[np.int32], *, limit: int) -> NDArray[np.int32]:
        """Return rankings of corpus rows as the first `limit` memories of each, int32 [n, limit], padded with -1."""
        expanded = np.full((len(rankings), limit), -1, np.int32)
        for query, rows in enumerate(rankings):
            memories = self.memories(rows[rows >= 0].astype(np.int64))[:limit]
            expanded[query, : len(memories)] = memories
        return expanded

    def cut(self, rankings: NDArray[np.int32], *, depth: int) -> NDArray[np.int32]:
        """Return rankings of corpus rows with those only that have a copy among the first `depth` memories."""
        counts = np.where(rankings >= 0, self.counts[rankings], 0)
        return np.where(np.cumsum(counts, axis=1) - counts < depth, rankings, -1).astype(np.int32)

    @cached_property
    def _by_row(self) -> NDArray[np.int64]:
        return np.argsort(self.rows, kind="stable").astype(np.int64)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.counts) - self.counts


def without_copies(
    rankings: NDArray[np.int32], scores: NDArray[np.floating] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.floating] | None]:
    """Return each row of a ranking at its first place only; later hits move up.

    Args:
        rankings: corpus rows int32 [n, depth], best first, padded with -1.
        scores: of the hits, float [n, depth].
    """
    kept = np.full(rankings.shape, -1, np.int32)
    values = None if scores is None else np.zeros_like(scores)
    for query, rows in enumerate(rankings):
        first = np.sort(np.unique(rows, return_index=True)[1])
        first = first[rows[first] >= 0]
        kept[query, : len(first)] = rows[first]
        if values is not None and scores is not None:
            values[query, : len(first)] = scores[query, first]
    return kept, values
