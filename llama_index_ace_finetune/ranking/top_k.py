"""Top-k selection for sparse score arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GROUP = 64


def top_k(scores: NDArray[np.float64], k: int, floor: float) -> NDArray[np.int64]:
    """Return the positions of the k largest scores above `floor`, best first, ties ordered by position.

    scores: float [n], most of them equal to the floor, as after a sparse query. Fewer than k positions are returned if
    fewer scores are above the floor.

    Partitioning all n is slow if most are equal. Instead the scores are split into groups of 64: the k-th largest group
    maximum is a lower bound of the k-th largest score, and few scores are above it.
    """
    bound = floor
    n_groups = len(scores) // _GROUP
    if n_groups > k:
        maxima = scores[: n_groups * _GROUP].reshape(_GROUP, n_groups).max(axis=0)
        bound = np.partition(maxima, n_groups - k)[n_groups - k]
    candidates = np.flatnonzero(scores >= bound if bound > floor else scores > floor)
    order = np.argsort(-scores[candidates], kind="stable")[:k]
    return candidates[order]
