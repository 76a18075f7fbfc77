"""Where candidates for hard negatives come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.ranking.without_own import without_own

NOTHING = -1
"""The row of a place that no hit fills."""
UNKNOWN = -2
"""The row of a hit that is not in the corpus."""

# A quarter of the default: 0.4 GB besides the vectors instead of 1.7 at 300,000 of them, and no slower.
_DOCUMENTS_AT_ONCE = 16_384

Rankings = tuple[NDArray[np.int32], NDArray[np.float32]]


class CandidateSource(Protocol):
    """Something that ranks the corpus for queries, as today's retrieval does."""

    @property
    def name(self) -> str:
        """What the hits are marked with."""

    def search(self, rows: NDArray[np.int64], k: int) -> Rankings:
        """Rank the corpus for the queries with these row numbers.

        Returns:
            Corpus rows int32 [n, <=k] and their scores float32 of the same shape. The column is the rank, best
            first; a row is `NOTHING` where there is no further hit (or a repeated one), `UNKNOWN` for a hit that is
            not in the corpus. A score is NaN where the source gives none.
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
        return dense_top_k(self.queries[rows], self.corpus, k, document_tile=_DOCUMENTS_AT_ONCE)


@dataclass(frozen=True)
class LexicalSource:
    """BM25 over the corpus's texts."""

    queries: Sequence[str]
    index: BM25Index
    name: str = "bm25"

    def search(self, rows: NDArray[np.int64], k: int) -> Rankings:
        """See `CandidateSource`."""
        return self.index.search_batch([self.queries[row] for row in rows], min(k, max(len(self.index), 1)))


@dataclass(frozen=True)
class WithoutOwnDocuments:
    """A source whose queries are documents too: a query's own row is no candidate for it.

    Args:
        source: what ranks.
        own: the row of each query's own document, int64 [n], -1 without one.
    """

    source: CandidateSource
    own: NDArray[np.int64]

    @property
    def name(self) -> str:
        """The name of the source."""
        return self.source.name

    def search(self, rows: NDArray[np.int64], k: int) -> Rankings:
        """See `CandidateSource`."""
        found, scores = self.source.search(rows, k + 1)
        kept, values = without_own(found, self.own[rows], limit=k, scores=scores)
        return kept, np.asarray(values, np.float32)


def rankings_of_hits(hits: Sequence[Sequence[tuple[int, float]]], k: int) -> Rankings:
    """Lay each query's hits, (row, score) best first, side by side; a row that comes again leaves its place empty."""
    width = min(k, max(map(len, hits), default=0))
    indices = np.full((len(hits), width), NOTHING, np.int32)
    scores = np.full((len(hits), width), -np.inf, np.float32)
    for place, found in enumerate(hits):
        seen: set[int] = set()
        for column, (row, score) in enumerate(found[:width]):
            if row not in seen:
                indices[place, column], scores[place, column] = row, score
            if row != UNKNOWN:
                seen.add(row)
    return indices, scores
