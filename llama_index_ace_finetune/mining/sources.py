"""Where candidates for hard negatives come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.dense import dense_top_k


class CandidateSource(Protocol):
    """Something that ranks the corpus for queries, as today's retrieval does."""

    @property
    def name(self) -> str:
        """What the hits are marked with."""

    def search(self, rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Rank the corpus for the queries with these row numbers.

        Returns:
            Corpus rows int32 [n, <=k], best first, padded with -1, and their scores float32 of the same shape.
        """
        ...


@dataclass(frozen=True)
class DenseSource:
    """Nearest neighbours of query vectors [n, d] among corpus vectors [m, d]."""

    queries: NDArray[np.float32]
    corpus: NDArray[np.float32]
    name: str = "dense"

    def search(self, rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `CandidateSource`."""
        return dense_top_k(self.queries[rows], self.corpus, k)


@dataclass(frozen=True)
class LexicalSource:
    """BM25 over the corpus's texts."""

    queries: Sequence[str]
    index: BM25Index
    name: str = "bm25"

    def search(self, rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `CandidateSource`."""
        return self.index.search_batch([self.queries[row] for row in rows], k)
