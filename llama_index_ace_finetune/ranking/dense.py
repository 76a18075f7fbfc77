"""Exact nearest-neighbour search by inner product, in tiles."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows of `vectors`, float [n, d], scaled to length 1, as float32; a zero row stays zero."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)


DIGITS: Final = 6
"""Decimals of an exact cosine: the precision of float32 vectors."""
_TINY: Final = 1e-30
# Rounding may order ties at the last hit arbitrarily, so a few more are ranked.
_EXTRA: Final = 16


def exact_cosines(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosines of unit vectors [n, d] with a query [d] of any length, float64 [n], rounded to `DIGITS`.

    They are computed in double precision: the last bits of a float32 product depend on the row and on the number of
    queries in a batch, and would order equal vectors arbitrarily. So would the length of the query, which is 1 only up
    to the rounding of float32. A query of zeros has cosines of 0.
    """
    wide = query.astype(np.float64)
    cosines: NDArray[np.float64] = vectors.astype(np.float64) @ (wide / np.maximum(np.linalg.norm(wide), _TINY))
    return np.round(cosines, DIGITS)


def exact_top_k(
    queries: NDArray[np.float32], documents: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the k rows of `documents` [m, d] with the largest cosine for each row of `queries` [n, d], unit vectors.

    The order of a store: by `exact_cosines`, so that cosines that are equal up to rounding tie.

    Returns:
        Indices int32 [n, min(k, m)] and cosines float64 of the same shape, best first, ties ordered by row.

    Raises:
        ValueError: if a vector holds NaN or infinity.
    """
    found = dense_top_k(queries, documents, k + _EXTRA)[0]
    k = min(k, len(documents))
    indices, cosines = np.empty((len(found), k), np.int32), np.empty((len(found), k))
    for query, rows in enumerate(found):
        exact = exact_cosines(documents[rows], queries[query])
        order = np.lexsort((rows, -exact))[:k]
        indices[query], cosines[query] = rows[order], exact[order]
    return indices, cosines


def dense_top_k(
    queries: NDArray[np.float32],
    documents: NDArray[np.float32],
    k: int,
    *,
    query_tile: int = 1024,
    document_tile: int = 65_536,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the k rows of `documents` with the largest inner product for each row of `queries`.

    Args:
        queries: float array [n, d].
        documents: float array [m, d]. With unit rows the scores are cosines.
        k: hits per query; `min(k, m)` are returned.
        query_tile: rows of `queries` scored at once.
        document_tile: rows of `documents` scored at once; peak memory is one tile of scores.

    Returns:
        Indices int32 [n, min(k, m)] and scores float32 of the same shape, best first, ties ordered by row.

    Raises:
        ValueError: if a vector holds NaN or infinity, whose scores have no order.
    """
    if not (np.isfinite(queries).all() and np.isfinite(documents).all()):
        raise ValueError("vectors hold NaN or infinity")
    count, k = len(queries), min(k, len(documents))
    indices = np.zeros((count, k), np.int32)
    scores = np.zeros((count, k), np.float32)
    if k == 0:
        return indices, scores
    for start in range(0, count, query_tile):
        block = queries[start : start + query_tile]
        best_scores = np.empty((len(block), 0), np.float32)
        best_indices = np.empty((len(block), 0), np.int32)
        for offset in range(0, len(documents), document_tile):
            tile = block @ documents[offset : offset + document_tile].T
            tile_indices, tile_scores = top_k_per_row(tile, k)
            best_scores = np.concatenate([best_scores, tile_scores], axis=1)
            best_indices = np.concatenate([best_indices, tile_indices + offset], axis=1)
            # Both parts are sorted and the earlier rows have smaller indices, so a stable sort keeps the order of ties.
            order = np.argsort(-best_scores, axis=1, kind="stable")[:, :k]
            best_scores = np.take_along_axis(best_scores, order, axis=1)
            best_indices = np.take_along_axis(best_indices, order, axis=1)
        scores[start : start + query_tile] = best_scores
        indices[start : start + query_tile] = best_indices
    return indices, scores


def top_k_per_row(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the k largest entries of each row of `scores` [n, m], best first, ties ordered by column.

    Returns:
        Indices int32 [n, min(k, m)] and float32 scores of the same shape.
    """
    k = min(k, scores.shape[1])
    if k == 0:
        return np.zeros((len(scores), 0), np.int32), np.zeros((len(scores), 0), np.float32)
    threshold = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k][:, None]
    above = scores > threshold
    # Of entries equal to the k-th largest the first columns are kept, so that ties are deterministic.
    room = k - above.sum(axis=1, keepdims=True)
    equal = scores == threshold
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(len(scores), k)
    picked = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-picked, axis=1, kind="stable")
    return (
        np.take_along_axis(columns, order, axis=1).astype(np.int32),
        np.take_along_axis(picked, order, axis=1).astype(np.float32),
    )
