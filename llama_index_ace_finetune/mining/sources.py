"""Sources of candidates for hard negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.ranking.own_documents import without_own

PADDING = -1
"""Row of an entry without a hit."""
UNKNOWN = -2
"""Row of a hit that is not in the corpus."""

# A quarter of the default: 0.4 GB besides the vectors instead of 1.7 GB for 300,000 of them, and no slower.
_DOCUMENT_TILE = 16_384

Rankings = tuple[NDArray[np.int32], NDArray[np.float32]]


class CandidateSource(Protocol):
    """Ranks the corpus for queries."""

    @property
    def name(self) -> str:
        """Name of the source, recorded with every hit."""

    def search(self, rows: NDArray[np.int64], k: int) -> Rankings:
        """Rank the corpus for the queries with these row numbers.

        Returns:
            Corpus rows int32 [n, <=k] and scores float32 of the same shape. The column is the rank, best first. A row
            is `PADDING` after the last hit or for a repeated hit, `UNKNOWN` for a hit that is not in the corpus. A
            score is NaN if the source gives none.
        """
        ...


@dataclass(frozen=True)
class DenseSource:
    """Nearest neighbours of query vectors [n, d] among corpus vectors [m, d]."""

    queries: NDArray[np.float32]
    corpus: NDArray[np.float32]
    name: str = "dense"

    def search(self, rows: NDArray[np.int64], k: int) -> Rankings:
        """See `CandidateSource`."""
        return dense_top_k(self.queries[rows], self.corpus, k, document_tile=_DOCUMENT_TILE)


@dataclass(frozen=True)
class LexicalSource:
    """BM25 search over the texts of the corpus."""

    queries: Sequence[str]
    index: BM25Index
    name: str = "bm25"

    def search(self, rows: NDArray[np.int64], k: int) -> Rankings:
        """See `CandidateSource`."""
        return self.index.search_batch([self.queries[row] for row in rows], min(k, max(len(self.index), 1)))


@dataclass(frozen=True)
class WithoutOwnDocuments:
    """A source for queries that are documents of the corpus too; a query's own document is not a candidate.

    Args:
        source: the source to wrap.
        own: row of each query's own document, int64 [n], -1 without one.
    """

    source: CandidateSource
    own: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Name of the wrapped source."""
        return self.source.name

    def search(self, rows: NDArray[np.int64], k: int) -> Rankings:
        """See `CandidateSource`."""
        found, scores = self.source.search(rows, k + 1)
        kept, values = without_own(found, self.own[rows], limit=k, scores=scores)
        return kept, np.asarray(values, np.float32)


def rankings_of_hits(hits: Sequence[Sequence[tuple[int, float]]], k: int) -> Rankings:
    """Stack the hits of each query, (row, score) best first; a repeated row becomes `PADDING`."""
    width = min(k, max(map(len, hits), default=0))
    indices = np.full((len(hits), width), PADDING, np.int32)
    scores = np.full((len(hits), width), -np.inf, np.float32)
    for place, found in enumerate(hits):
        seen: set[int] = set()
        for column, (row, score) in enumerate(found[:width]):
            if row not in seen:
                indices[place, column], scores[place, column] = row, score
            if row != UNKNOWN:
                seen.add(row)
    return indices, scores
