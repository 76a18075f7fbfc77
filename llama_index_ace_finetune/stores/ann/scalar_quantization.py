"""Scalar quantization: vectors as int8, and their dot products with a query."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST = 127
_ROW_BATCH = 256  # small enough, as float32, for a core's cache


def quantise(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 codes [n, d] and one scale per row, float32 [n]: `vectors` is about `codes * scales[:, None]`.

    Symmetric: a row's largest coordinate becomes 127 or -127, so the error of a coordinate is at most half of its row's
    scale.
    """
    scales = np.abs(vectors).max(axis=1, initial=0).astype(np.float32) / _LARGEST
    codes = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None])
    return codes.astype(np.int8), scales


def int8_scores(
    codes: NDArray[np.int8], scales: NDArray[np.float32], query: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the dot products of the rows with a query [d], float32 [n]."""
    scores = np.empty(len(codes), np.float32)
    block = np.empty((min(_ROW_BATCH, len(codes)), codes.shape[1]), np.float32)
    for start in range(0, len(codes), _ROW_BATCH):
        rows = codes[start : start + _ROW_BATCH]
        part = block[: len(rows)]
        np.copyto(part, rows)
        np.dot(part, query, out=scores[start : start + len(rows)])
    scores *= scales
    return scores


def score_errors(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the standard deviation of each row's score for queries of length 1, float32 [n].

    The rounding error of a coordinate is uniform over a step, and the coordinates' errors are independent.
    """
    return np.asarray(scales / np.float32(12**0.5), np.float32)
