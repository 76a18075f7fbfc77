"""MaxSim: the mean over query tokens of the largest cosine with a document token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.utils.ragged import offsets_of, ragged_rows

DIGITS: Final = 6
LOWEST: Final = -1.0
"""Score of a document or a query without tokens, and of padding: no cosine is lower."""
# float32 represents all integers up to here, so that products of integer codes are exact in any order of summation.
_EXACT = 2**24
_MAX_QUERY_LEVEL = 32_767


@dataclass(frozen=True)
class GatheredTokens:
    """The tokens of some documents, one document after the other.

    Attributes:
        products: returns the dot products of their vectors and those of queries, float32 [q, d], as float32 [t, q].
        lengths: tokens of each document, int64 [n].
        scales: float32 [t]; a token is its vector times its scale. None if the vectors are not scaled.
        level: largest absolute coordinate if the vectors are integers, else 0.
    """

    products: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    lengths: NDArray[np.int64]
    scales: NDArray[np.float32] | None = None
    level: int = 0


class TokenSource(Protocol):
    """Documents with token vectors, by row."""

    def gather(self, rows: NDArray[np.int64]) -> GatheredTokens:
        """Return the tokens of these rows, in this order."""


def max_sim(
    query: NDArray[np.float32], documents: TokenSource | TokenVectors, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the MaxSim of a query and the documents in `rows`, float64 [n], rounded to 6 decimals.

    score(q, d) = 1/|q| * sum over query tokens i of max over document tokens j of q_i . d_j
    (Khattab and Zaharia 2020, ColBERT; its sum divided by the number of query tokens, which keeps the order).

    The query is quantised to as many levels as keep all products with integer codes exact in float32. So the score of a
    document does not depend on the other documents, the batch or the BLAS, and documents with equal tokens tie.

    Args:
        query: unit vectors of the query's tokens, float32 [q, d].
        documents: the documents.
        rows: int64 [n], row numbers of `documents`.
    """
    scores = np.full(len(rows), LOWEST)
    if not len(query) or not len(rows):
        return scores
    tokens = _of_vectors(documents, rows) if isinstance(documents, TokenVectors) else documents.gather(rows)
    present = np.flatnonzero(tokens.lengths)
    if not len(present):
        return scores
    codes, query_scales = _query_codes(query, tokens.level)
    products = tokens.products(codes)
    if tokens.scales is not None:
        products *= tokens.scales[:, None]
    # `reduceat` takes the element at the start of an empty segment, so documents without tokens are left out.
    starts = offsets_of(tokens.lengths)[present]
    largest = np.maximum.reduceat(products, starts, axis=0).astype(np.float64)
    scores[present] = (largest * query_scales).mean(axis=1).round(DIGITS)
    return scores


def max_sim_scores(
    queries: TokenVectors, documents: TokenSource | TokenVectors, candidates: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the MaxSim of each query and each of its candidates, float64 [n, u].

    Args:
        queries: n queries.
        documents: the documents.
        candidates: rows of `documents`, int [n, u]; -1 is padding, whose score is `LOWEST`.
    """
    scores = np.full(candidates.shape, LOWEST)
    for query, rows in enumerate(candidates):
        used = np.flatnonzero(rows >= 0)
        scores[query, used] = max_sim(queries[query], documents, np.asarray(rows[used], np.int64))
    return scores


def _of_vectors(documents: TokenVectors, rows: NDArray[np.int64]) -> GatheredTokens:
    lengths = documents.lengths[rows]
    vectors = documents.vectors[ragged_rows(documents.offsets[rows], lengths)]
    return GatheredTokens(lambda queries: vectors @ queries.T, lengths)


def _query_codes(query: NDArray[np.float32], level: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the query as integers and their scales, float64 [q], if the documents are integers up to `level`."""
    if not level:
        return query, np.ones(len(query))
    levels = min(_EXACT // (level * query.shape[1]), _MAX_QUERY_LEVEL)
    largest = np.abs(query).max(axis=1).astype(np.float64)
    scales = np.where(largest > 0, largest, 1) / levels
    return np.rint(query / scales[:, None]).astype(np.float32), scales
