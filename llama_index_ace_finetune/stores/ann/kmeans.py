"""Spherical k-means: the centroids of the lists of an IVF index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
_BATCH = 4096


def train_centroids(
    sample: NDArray[np.float32], count: int, *, rng: np.random.Generator, rounds: int = ROUNDS
) -> NDArray[np.float32]:
    """Return `count` unit vectors [count, d] by spherical k-means (Dhillon and Modha, 2001) over a sample [n, d].

    A centroid without vectors is replaced by a random vector of the sample.
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
    """Return the row of the centroid with the largest dot product, int64 [n]."""
    lists = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _BATCH):
        block = vectors[start : start + _BATCH]
        lists[start : start + len(block)] = (block @ centroids.T).argmax(axis=1)
    return lists
