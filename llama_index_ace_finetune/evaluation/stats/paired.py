"""Paired difference between two systems: interval and significance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.stats.bootstrap import bootstrap_intervals
from llama_index_ace_finetune.evaluation.stats.groups import Groups, number_groups
from llama_index_ace_finetune.evaluation.stats.permutation_test import paired_permutation_test

_TIE = 1e-12
# With two or three groups an interval can be above zero by chance; the permutation test is not misled.
_SIGNIFICANCE_LEVEL = 0.05

SIGNIFICANT = (
    "A paired difference is a significant gain if its 95% interval (bootstrap by relevant document) is above zero and "
    "its permutation test gives p <= .05."
)
"""The rule of `PairedDifference.is_gain` in words, for every text that states it."""


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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PairedDifference:
        """Return the difference that a report or a model record holds, as JSON values; other keys are ignored."""
        return cls(**{one.name: values[one.name] for one in fields(cls)})

    @property
    def is_gain(self) -> bool:
        """Whether the interval is above zero and the permutation test gives p <= .05 (`SIGNIFICANT`)."""
        return self.low > 0 and self.p_value <= _SIGNIFICANCE_LEVEL

    @property
    def is_loss(self) -> bool:
        """Whether the interval is below zero and the permutation test gives p <= .05."""
        return self.high < 0 and self.p_value <= _SIGNIFICANCE_LEVEL

    @property
    def not_a_gain(self) -> str:
        """Why it is not a significant gain, by `SIGNIFICANT`; empty if it is one."""
        if self.is_gain:
            return ""
        if self.low > 0:
            return f"not significant, {p_text(self.p_value)} is above .05"
        return "no gain" if self.mean <= 0 else "not significant, the 95% interval includes 0"

    def __str__(self) -> str:
        return f"{self.mean:+.3f} (95% interval {self.low:+.3f} to {self.high:+.3f}, {p_text(self.p_value)})"


def p_text(p_value: float) -> str:
    """Return a p-value as in "p = .012"; with four digits if three would hide that it is above the level."""
    if p_value < 0.001:
        return "p < .001"
    digits = 4 if _SIGNIFICANCE_LEVEL < p_value < _SIGNIFICANCE_LEVEL + 0.0005 else 3
    return f"p = {p_value:.{digits}f}".replace("= 0.", "= .")


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
    require_finite(differences)
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


def require_finite(values: NDArray[np.float64]) -> None:
    """Raise AceFinetuneError for per-query values that are NaN or infinite."""
    if not np.isfinite(values).all():
        raise AceFinetuneError("A per-query value is NaN or infinite; leave out the queries that have no value.")
