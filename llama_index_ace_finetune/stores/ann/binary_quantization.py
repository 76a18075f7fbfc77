"""Binary quantization: one bit per coordinate, whether it is above the mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = 64
_COLUMN_BATCH = 16_384  # small enough for a core's cache
_BITS_OF_BYTE = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def binary_codes(vectors: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return the signs of `vectors - mean` [n, d] in 64-bit words, uint64 [words, n]: one column per vector."""
    n, dimension = vectors.shape
    bits = np.zeros((n, -(-dimension // _WORD) * _WORD // 8), np.uint8)
    packed = np.packbits(vectors > mean, axis=1)
    bits[:, : packed.shape[1]] = packed
    return np.ascontiguousarray(bits.view(np.uint64).T)


def hamming_distances(
    codes: NDArray[np.uint64], spans: Sequence[slice], query: NDArray[np.uint64]
) -> NDArray[np.uint16]:
    """Return the Hamming distances of the columns in `spans`, in their order, to a query [words, 1]."""
    found, group, width = [np.empty(0, np.uint16)], [], 0
    for number, span in enumerate(spans):
        group.append(codes[:, span])
        width += group[-1].shape[1]
        if width >= _COLUMN_BATCH or number == len(spans) - 1:
            differing = np.concatenate(group, axis=1) ^ query
            found.append(_bit_counts(differing).sum(axis=0, dtype=np.uint16))
            group, width = [], 0
    return np.concatenate(found)


def _bit_counts(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(words))
    counts = _BITS_OF_BYTE[words.view(np.uint8)]  # numpy 1
    return np.asarray(counts.reshape(*words.shape, 8).sum(axis=2, dtype=np.uint8))
