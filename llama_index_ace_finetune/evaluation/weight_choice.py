"""One weight out of a grid, chosen so that chance does not choose it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.query_groups import Groups, number_groups

EQUAL = 0.5
_FOLDS = 5
ROUNDING = 1e-12


@dataclass(frozen=True)
class WeightChoice:
    """A weight and what it rests on.

    Attributes:
        weight: the choice.
        best: the weight with the largest mean.
        gain: of choosing over equal weights, on queries that the choice had not seen; None without folds.
        error: standard error of that gain, by group.
        held: whether the gain is above its error, or there was nothing to choose.
    """

    weight: float
    best: float
    gain: float | None
    error: float | None
    held: bool


def choose_weight(
    values: NDArray[np.float64], grid: NDArray[np.float64], *, groups: Groups | None = None, seed: int = 0
) -> WeightChoice:
    """Choose a weight of the first of two legs by the mean of per-query values.

    1. Of all weights whose mean is within one standard error of the best, the one nearest to equal is taken.
    2. The same is done five times with a fifth of the groups left out, and what it takes is tried on that fifth. If
       the gain over equal weights there is not above its standard error, the weights stay equal: a choice that does
       not carry over to other queries of the same set will not carry over to new ones.

    Standard errors are of paired differences, and count groups and not queries as independent.
    Source: the one-standard-error rule, Breiman et al., "Classification and Regression Trees", 1984.

    Args:
        values: per weight and query, float [w, n], n above 0.
        grid: weights of the first leg in [0, 1], float [w]; .5 must be among them.
        groups: what each query belongs to [n].
        seed: of the folds.
    """
    labels = number_groups(groups, values.shape[1])
    equal = int(np.flatnonzero(np.isclose(grid, EQUAL))[0])
    best, chosen = _one_error_rule(values, grid, labels)
    if chosen == equal:
        return WeightChoice(float(grid[equal]), float(grid[best]), None, None, held=True)
    count = int(labels.max()) + 1
    folds = min(_FOLDS, count)
    fold_of = (np.random.default_rng(seed).permutation(count) % folds)[labels]
    gains = np.zeros(values.shape[1])
    for fold in range(folds if folds > 1 else 0):
        left_out = fold_of == fold
        _, taken = _one_error_rule(values[:, ~left_out], grid, labels[~left_out])
        gains[left_out] = values[taken, left_out] - values[equal, left_out]
    gain, error = float(gains.mean()), standard_error(gains, labels)
    held = gain > error + ROUNDING
    return WeightChoice(float(grid[chosen] if held else grid[equal]), float(grid[best]), gain, error, held)


def _one_error_rule(
    values: NDArray[np.float64], grid: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[int, int]:
    """Return the places of the best weight and of the one that the rule takes."""
    means = np.round(values.mean(axis=1), 12)
    distance = np.abs(grid - EQUAL).round(9)
    best = int(np.lexsort((distance, -means))[0])
    behind = [values[best] - value for value in values]
    near = [place for place, d in enumerate(behind) if d.mean() <= standard_error(d, labels) + ROUNDING]
    return best, min(near, key=lambda place: (distance[place], -means[place]))


def standard_error(differences: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the standard error of the mean of `differences`, float [n], with the correction for few clusters.

    Args:
        differences: per query.
        labels: the cluster of each query, int [n]; with a single one the error is infinite, but 0 where all are 0.
    """
    totals = np.bincount(labels, differences - differences.mean())
    clusters = len(np.unique(labels))
    if clusters < 2:
        return 0.0 if not np.any(differences) else float("inf")
    return float(np.sqrt((totals**2).sum() * clusters / (clusters - 1)) / len(differences))
