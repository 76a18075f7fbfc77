"""Centroids that divide unit vectors into lists."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
_AT_ONCE = 4096


def train_centroids(
    sample: NDArray[np.float32], count: int, *, rng: np.random.Generator, rounds: int = ROUNDS
) -> NDArray[np.float32]:
    """Return `count` unit vectors [count, d] by spherical k-means (Dhillon and Modha, 2001) over a sample [n, d].

    A centroid that no vector is nearest to goes on from a vector of the sample drawn anew.
    """
    centroids: NDArray[np.float32] = sample[rng.choice(len(sample), count, replace=False)]
    for _ in range(rounds):
        lists = nearest_centroid(sample, centroids)
        order = np.argsort(lists, kind="stable")
        sizes = np.bincount(lists, minlength=count)
        full = np.flatnonzero(sizes)
        starts = (np.cumsum(sizes) - sizes)[full]
        centroids[full] = np.add.reduceat(sample[order], starts, axis=0)
        empty = np.flatnonzero(sizes == 0)
        centroids[empty] = sample[rng.choice(len(sample), len(empty))]
        centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), np.float32(1e-12))
    return centroids


def nearest_centroid(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the number of the centroid with the largest product, int64 [n]."""
    lists = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _AT_ONCE):
        block = vectors[start : start + _AT_ONCE]
        lists[start : start + len(block)] = (block @ centroids.T).argmax(axis=1)
    return lists
