"""Further vectors of memories: those of known queries about them, and of windows of their texts.

The score of a memory in the dense leg is max(cos(q, memory), max over its further vectors of cos(q, vector) - offset).
The offset of windows is 0. Without one for known queries, memories that have known queries would push down those that
have none, since a query resembles other queries more than it resembles memories.

Sources: FAQ retrieval by question-question and question-answer similarity, Sakata et al., SIGIR 2019; the best passage
of a document (MaxP), Dai and Callan, "Deeper text understanding for IR with contextual neural language modeling", SIGIR
2019.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.candidate_scores import CandidateScores
from llama_index_ace_finetune.ranking.copies import Copies
from llama_index_ace_finetune.ranking.dense import DIGITS, exact_cosines

LARGEST_OFFSET: Final = 2.0
"""The difference of the largest and the smallest cosine."""
# Rounding may order ties at the last hit arbitrarily, so a few more are ranked.
_EXTRA = 16
_QUERIES_AT_ONCE = 64
_NONE = -1.0


@dataclass(frozen=True, eq=False)
class FurtherVectors:
    """Vectors beside those of the memories' texts, grouped by the memory that they belong to.

    Attributes:
        vectors: float32 [r, d] of unit length, in the order of `memories`.
        memories: the memory of each, as a row number, int64 [r], ascending. A query that is about several memories
            has several rows.
    """

    vectors: NDArray[np.float32]
    memories: NDArray[np.int64]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], memories: NDArray[np.int64]) -> FurtherVectors:
        """Return them from vectors float32 [r, d] and memories int64 [r] in any order."""
        if (np.diff(memories) >= 0).all():
            return cls(vectors, memories)  # vectors in a mapped file stay there
        order = np.argsort(memories, kind="stable")
        return cls(vectors[order], memories[order])

    @cached_property
    def distinct(self) -> NDArray[np.int64]:
        """The memories with further vectors, int64 [m], ascending."""
        return np.unique(self.memories)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The first row of each of `distinct`."""
        return np.searchsorted(self.memories, self.distinct)

    def best(
        self, queries: NDArray[np.float32], k: int, *, among: NDArray[np.bool_] | None = None
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Return per query the k memories with the nearest further vector, and the exact cosines of these.

        Args:
            queries: float32 [n, d] of unit length.
            k: number of memories; some more are returned, so that ties at the last place are complete.
            among: which of `distinct` may be returned, bool [m]; all of them by default.
        """
        found = []
        for first in range(0, len(queries), _QUERIES_AT_ONCE):
            block = queries[first : first + _QUERIES_AT_ONCE]
            nearest = np.zeros((len(block), 0), np.float32)
            if len(self.vectors):
                nearest = np.maximum.reduceat(block @ self.vectors.T, self._starts, axis=1)
            if among is not None:
                nearest = np.where(among, nearest, -np.inf)
            for query, row in zip(block, nearest, strict=True):
                count = min(k + _EXTRA, len(row))
                chosen = np.sort(np.argpartition(-row, count - 1)[:count]) if count else np.zeros(0, np.int64)
                memories = self.distinct[chosen[np.isfinite(row[chosen])]]
                found.append((memories, self.scores(query, memories)))
        return found

    def scores(self, query: NDArray[np.float32], memories: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the exact cosine of a query [d] with the nearest further vector of each memory, float64 [n].

        It is -1 for a memory without one.

        Args:
            query: of unit length.
            memories: row numbers.
        """
        first = np.searchsorted(self.memories, memories)
        counts = np.searchsorted(self.memories, memories, side="right") - first
        place = np.repeat(np.arange(len(memories)), counts)
        rows = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        best = np.full(len(memories), _NONE)
        np.maximum.at(best, place, exact_cosines(self.vectors[rows], query))
        return best


def with_offset(cosines: NDArray[np.float64], further: NDArray[np.float64], offset: float) -> NDArray[np.float64]:
    """Return max(cosine with the memory, cosine with its nearest further vector - offset), rounded as cosines are."""
    best: NDArray[np.float64] = np.maximum(cosines, np.round(further - offset, DIGITS))
    return best


@dataclass(frozen=True, eq=False)
class FurtherVectorLeg:
    """The cosines of queries float32 [n, d] with the further vectors of each memory, as a `ScoringLeg`.

    It becomes part of the dense leg by `merge_further_vectors`, and is never fused by itself.
    """

    queries: NDArray[np.float32]
    further: FurtherVectors
    copies: Copies | None = None
    floor: ClassVar[float] = -1.0
    retrieves: ClassVar[bool] = True

    def rankings(self, depth: int) -> NDArray[np.int32]:
        """See `ScoringLeg`."""
        ranked = np.full((len(self.queries), depth), -1, np.int32)
        for query, (rows, scores) in enumerate(self.further.best(self.queries, depth)):
            hits = _ranked(rows, scores, self.copies)[:depth]
            ranked[query, : len(hits)] = hits
        return ranked

    def scores(self, query: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `ScoringLeg`."""
        return self.further.scores(self.queries[query], rows)


def merge_further_vectors(
    table: CandidateScores, offset: float | None, *, dense: int, depth: int, copies: Copies | None = None
) -> CandidateScores:
    """Return a table whose last leg (`FurtherVectorLeg`) is merged into the dense leg.

    Args:
        table: of legs that were searched to `depth`. The best memories by the merged score are among the hits of the
            two legs.
        offset: of the further vectors; None only removes their leg.
        dense: place of the dense leg.
        depth: hits of the merged leg.
        copies: of the texts.
    """
    scores, found, highest = table.scores[:-1].copy(), table.found[:-1].copy(), table.highest[:-1].copy()
    if offset is not None:
        scores[dense] = with_offset(table.scores[dense], table.scores[-1], offset)
        for query, either in enumerate(table.found[dense] | table.found[-1]):
            columns = np.flatnonzero(either)
            hits = _ranked(table.rows[query, columns], scores[dense, query, columns], copies)[:depth]
            found[dense, query] = np.isin(table.rows[query], hits) & either
            highest[dense, query] = scores[dense, query, columns].max(initial=-np.inf) if len(columns) else np.nan
    return replace(table, scores=scores, found=found, highest=highest, floors=table.floors[:-1])


def _ranked(rows: NDArray[np.int64], scores: NDArray[np.float64], copies: Copies | None) -> NDArray[np.int64]:
    """Return corpus rows, best first, ties by memory; the row of a text occurs once for each of its copies."""
    ids = rows
    if copies is not None:
        ids, counts = copies.memories(rows), copies.counts[rows]
        rows, scores = np.repeat(rows, counts), np.repeat(scores, counts)
    ordered: NDArray[np.int64] = rows[np.lexsort((ids, -scores))]
    return ordered
