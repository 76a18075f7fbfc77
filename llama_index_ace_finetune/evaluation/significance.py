"""How sure a difference between two systems is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A mean difference with its 95 % interval, its p-value, and how many queries rose, stayed and fell."""

    mean: float
    low: float
    high: float
    p_value: float
    wins: int
    ties: int
    losses: int


def paired_difference(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two systems on the same queries.

    The interval is a percentile bootstrap that resamples whole groups, since queries with the same right answer are
    not independent; the p-value is the two-sided randomisation test that flips the sign of whole groups, with the
    +1 correction of Davison and Hinkley (1997).

    Args:
        ours: per-query values, float [n].
        theirs: per-query values of the other system, float [n].
        groups: what each query belongs to; by default each query is its own group.
        resamples: of the bootstrap and of the test.
        seed: of both.
    """
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    count = len(difference)
    if count == 0:
        return PairedDifference(0.0, 0.0, 0.0, 1.0, 0, 0, 0)
    labels = np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.bincount(labels, weights=difference)
    sizes = np.bincount(labels).astype(np.float64)
    generator = np.random.default_rng(seed)
    means, flipped = np.empty(resamples), np.empty(resamples)
    for start in range(0, resamples, 1000):
        stop = min(start + 1000, resamples)
        drawn = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=stop - start)
        means[start:stop] = (drawn @ sums) / (drawn @ sizes)
        signs = generator.integers(0, 2, size=(stop - start, len(sums))) * 2 - 1
        flipped[start:stop] = np.abs(signs @ sums)
    observed = abs(difference.sum())
    low, high = np.quantile(means, [0.025, 0.975])
    return PairedDifference(
        mean=float(difference.mean()),
        low=float(low),
        high=float(high),
        p_value=float((1 + (flipped >= observed - 1e-12).sum()) / (1 + resamples)),
        wins=int((difference > 1e-12).sum()),
        ties=int((np.abs(difference) <= 1e-12).sum()),
        losses=int((difference < -1e-12).sum()),
    )
