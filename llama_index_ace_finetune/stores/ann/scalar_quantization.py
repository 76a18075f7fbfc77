"""Rows in 8 bits a coordinate, and their products with a query."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST = 127
_ROWS_AT_ONCE = 256  # as float32 they stay in a core's cache


def quantise(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 codes [n, d] and one scale a row, float32 [n]: `vectors` is about `codes * scales[:, None]`.

    Symmetric scalar quantisation: a row's largest coordinate becomes 127 or -127, so a coordinate is off by at most
    half its row's scale.
    """
    scales = np.abs(vectors).max(axis=1, initial=0).astype(np.float32) / _LARGEST
    codes = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None])
    return codes.astype(np.int8), scales


def int8_scores(
    codes: NDArray[np.int8], scales: NDArray[np.float32], query: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the products of the rows with a query [d], float32 [n]."""
    scores = np.empty(len(codes), np.float32)
    block = np.empty((min(_ROWS_AT_ONCE, len(codes)), codes.shape[1]), np.float32)
    for start in range(0, len(codes), _ROWS_AT_ONCE):
        rows = codes[start : start + _ROWS_AT_ONCE]
        part = block[: len(rows)]
        np.copyto(part, rows)
        np.dot(part, query, out=scores[start : start + len(rows)])
    scores *= scales
    return scores


def score_errors(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the standard deviation of each row's score for queries of length 1, float32 [n].

    Rounding is off by a uniform part of a step per coordinate, and the coordinates' errors are independent.
    """
    return np.asarray(scales / np.float32(12**0.5), np.float32)
