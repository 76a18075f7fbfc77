"""Rows of ragged arrays: sequences of different lengths, one after the other in one array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64 [n + 1]: the rows of sequence i are offsets[i]:offsets[i + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def ragged_rows(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows starts[0], starts[0] + 1, ... of each sequence, one sequence after the other, int64 [sum]."""
    within = np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(offsets_of(lengths)[:-1], lengths)
    return np.asarray(np.repeat(starts, lengths) + within, np.int64)
