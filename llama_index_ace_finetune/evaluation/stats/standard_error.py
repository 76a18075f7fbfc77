"""Cluster-robust standard error of a mean."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

ROUNDING: Final = 1e-12
"""Added to a standard error that a mean is compared with, since equal means differ by rounding."""


def standard_error(differences: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the cluster-robust standard error of the mean of `differences`, with the correction for few clusters.

    Args:
        differences: per query, float [n].
        labels: the cluster of each query, int [n]; with a single cluster the error is infinite, or 0 if all differences
            are 0.
    """
    totals = np.bincount(labels, differences - differences.mean())
    clusters = len(np.unique(labels))
    if clusters < 2:
        return 0.0 if not np.any(differences) else float("inf")
    return float(np.sqrt((totals**2).sum() * clusters / (clusters - 1)) / len(differences))
