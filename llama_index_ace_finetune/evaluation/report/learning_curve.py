"""What more training data gives, and whether still more would pay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.stats.groups import Groups
from llama_index_ace_finetune.evaluation.stats.paired import paired_difference


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A model trained on so many queries: its difference to the base with the 95 % interval."""

    queries: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """Points by the number of training queries, and in a sentence what they say."""

    points: tuple[CurvePoint, ...]
    sentence: str


def draw_learning_curve(
    values: Mapping[int, NDArray[np.float64]],
    base: NDArray[np.float64],
    *,
    measure: str,
    groups: Groups | None = None,
    seed: int = 0,
) -> LearningCurve:
    """Compare models trained on growing parts of the data with the base, and the largest part with the one before.

    More data is said to pay where the interval of that last difference lies above zero.

    Args:
        values: per number of training queries, per-query values float [n] of the model trained on them.
        base: the same of the base model.
        measure: what the values are.
        groups: what queries are resampled with [n].
        seed: of the bootstrap.

    Raises:
        AceFinetuneError: for values that differ in number or are not finite.
    """
    points = []
    for size in sorted(values):
        found = paired_difference(values[size], base, groups=groups, seed=seed)
        points.append(CurvePoint(size, found.mean, found.low, found.high))
    if len(points) < 2:
        return LearningCurve(tuple(points), "One size alone says nothing about more data.")
    before, last = points[-2].queries, points[-1].queries
    step = paired_difference(values[last], values[before], groups=groups, seed=seed)
    figures = f"{step.mean:+.3f} (95 % interval {step.low:+.3f} to {step.high:+.3f})"
    told = f"From {before:,} to {last:,} training queries {measure} changes by {figures}"
    if step.low > 0:
        return LearningCurve(tuple(points), f"{told}: it still rises, so more data would pay.")
    return LearningCurve(tuple(points), f"{told}: no certain gain any more, so more data of this kind may not pay.")
