"""Paired difference between two systems: interval and significance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.stats.bootstrap import bootstrap_intervals
from llama_index_ace_finetune.evaluation.stats.groups import Groups, number_groups
from llama_index_ace_finetune.evaluation.stats.permutation_test import paired_permutation_test

_TIE = 1e-12
# With two or three groups an interval can be above zero by chance; the permutation test is not misled.
_SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A mean difference with its 95% interval and p-value, and the number of queries won, tied and lost."""

    mean: float
    low: float
    high: float
    p_value: float
    wins: int
    ties: int
    losses: int

    @property
    def is_gain(self) -> bool:
        """Whether the interval is above zero and the permutation test gives p <= .05."""
        return self.low > 0 and self.p_value <= _SIGNIFICANCE_LEVEL


def paired_difference(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    *,
    groups: Groups | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two systems on the same queries.

    The interval is a bootstrap (`bootstrap_intervals`) that resamples whole groups, since queries with the same
    relevant document are not independent; the p-value is that of a permutation test (`paired_permutation_test`) that
    flips the signs of whole groups. With one query or one group both ends are the mean and p is 1, since the variance
    is unknown.

    Args:
        ours: per-query values, float [n].
        theirs: per-query values of the other system, float [n].
        groups: the group of each query [n]; by default each query is one group.
        resamples: number of resamples of the bootstrap and of the test.
        seed: random seed of both.

    Raises:
        AceFinetuneError: if values or labels differ in number, or a value is not finite.
    """
    if np.shape(ours) != np.shape(theirs):
        raise AceFinetuneError(
            f"One system has {len(ours)} values and the other {len(theirs)}; compare them on the same queries."
        )
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    return paired_differences(difference[:, None], groups=groups, resamples=resamples, seed=seed)[0]


def paired_differences(
    differences: NDArray[np.float64], *, groups: Groups | None = None, resamples: int = 10_000, seed: int = 0
) -> list[PairedDifference]:
    """Return the `paired_difference` of each column of `differences` [n, m], using the same resamples for all."""
    count, columns = differences.shape
    labels = number_groups(groups, count)
    if not np.isfinite(differences).all():
        raise AceFinetuneError("A per-query value is NaN or infinite; leave out the queries that have no value.")
    if not differences.size:
        return [PairedDifference(0.0, 0.0, 0.0, 1.0, 0, 0, 0)] * columns
    low, high = bootstrap_intervals(differences, labels, resamples=resamples, seed=seed)
    p_values = paired_permutation_test(differences, labels, resamples=resamples, seed=seed)
    return [
        PairedDifference(
            mean=float(differences[:, column].mean()),
            low=float(low[column]),
            high=float(high[column]),
            p_value=float(p_values[column]),
            wins=int((differences[:, column] > _TIE).sum()),
            ties=int((np.abs(differences[:, column]) <= _TIE).sum()),
            losses=int((differences[:, column] < -_TIE).sum()),
        )
        for column in range(columns)
    ]
