"""Choose a trial: the default settings, unless another trial is better by more than one standard error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.stats.groups import number_groups
from llama_index_ace_finetune.evaluation.stats.standard_error import standard_error


@dataclass(frozen=True)
class TrialChoice:
    """The chosen row of the trials, the best one, and the gain of the best over the default with its standard error."""

    chosen: int
    best: int
    gain: float
    error: float


def choose_trial(values: NDArray[np.float64], *, groups: Sequence[str]) -> TrialChoice:
    """Choose by the per-query MRR@10 on dev.

    The best of many trials is too good on the queries that it was chosen on, so it has to beat the default by more than
    one standard error of the paired difference, clustered by group.

    Source: the one-standard-error rule, Breiman et al., "Classification and Regression Trees", 1984.

    Args:
        values: per trial and query, float64 [t, n]; the first row is the default.
        groups: the group of each query [n].
    """
    best = int(values.mean(axis=1).round(12).argmax())
    difference = values[best] - values[0]
    gain = float(difference.mean())
    error = standard_error(difference, number_groups(groups, values.shape[1]))
    return TrialChoice(best if gain > error else 0, best, gain, error)
