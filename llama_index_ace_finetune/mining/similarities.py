"""Cosines that the filters look at, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.mining.ragged import Ragged

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
