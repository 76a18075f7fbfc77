"""Paired permutation (randomisation) test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 22  # signs at once


def paired_permutation_test(
    differences: NDArray[np.float64], groups: NDArray[np.int64], *, resamples: int = 10_000, seed: int = 0
) -> NDArray[np.float64]:
    """Return the two-sided p-value of each column, float64 [m].

    Under the null hypothesis a difference is as likely to be negative as positive. So the signs of whole groups are
    flipped at random, the same for all columns, and p = (1 + permutations whose absolute sum is at least the observed
    one) / (1 + permutations).

    Source: Fisher 1935; the +1, Davison and Hinkley, "Bootstrap methods and their application", 1997.

    Args:
        differences: per query and comparison, float64 [n, m], n above 0.
        groups: group of each row, int [n], from 0 without gaps.
        resamples: number of permutations.
        seed: random seed.
    """
    sums = np.stack([np.bincount(groups, column) for column in differences.T], axis=1)
    count = len(sums)
    observed = np.abs(sums.sum(axis=0))
    # Sums that are equal on paper may differ by rounding.
    bound = observed - 1e-12 * np.abs(sums).sum(axis=0)
    generator = np.random.default_rng(seed)
    reached = np.zeros(differences.shape[1], np.int64)
    block = max(1, _BLOCK // count)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        random_bytes = generator.integers(0, 256, (rows, (count + 7) // 8), np.uint8)
        positive = np.unpackbits(random_bytes, axis=1, count=count).astype(np.float64)
        flipped = np.abs(2 * (positive @ sums) - sums.sum(axis=0))
        reached += (flipped >= bound).sum(axis=0)
    return np.asarray((1 + reached) / (1 + resamples))
