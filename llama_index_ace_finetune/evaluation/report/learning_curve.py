"""Learning curve: whether more training data would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.stats.groups import Groups
from llama_index_ace_finetune.evaluation.stats.paired import paired_difference


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A model trained on N queries: its difference to the base with the 95% interval."""

    queries: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """Points by number of training queries, and their interpretation in one sentence."""

    points: tuple[CurvePoint, ...]
    sentence: str


def build_learning_curve(
    values: Mapping[int, NDArray[np.float64]],
    base: NDArray[np.float64],
    *,
    measure: str,
    groups: Groups | None = None,
    seed: int = 0,
) -> LearningCurve:
    """Compare models trained on growing subsets of the data with the base, and the largest subset with the one before.

    More data would help if that last difference is a significant gain.

    Args:
        values: per number of training queries, per-query values float [n] of the model trained on them.
        base: per-query values of the base model, float [n].
        measure: name of the measure.
        groups: the group of each query [n], resampled as a whole.
        seed: random seed of the bootstrap.

    Raises:
        AceFinetuneError: for values that differ in number or are not finite.
    """
    points = []
    for size in sorted(values):
        found = paired_difference(values[size], base, groups=groups, seed=seed)
        points.append(CurvePoint(size, found.mean, found.low, found.high))
    if len(points) < 2:
        return LearningCurve(tuple(points), "One training size says nothing about more data.")
    before, last = points[-2].queries, points[-1].queries
    step = paired_difference(values[last], values[before], groups=groups, seed=seed)
    change = f"From {before:,} to {last:,} training queries {measure} changes by {step}"
    if step.is_gain:
        return LearningCurve(tuple(points), f"{change}: it still rises, so more data would help.")
    return LearningCurve(tuple(points), f"{change}: {step.not_a_gain}, so more data of this kind may not help.")


def expected_gain(points: Sequence[Mapping[str, float]], more: int) -> float | None:
    """Return what `more` training queries may add to the measure, by the slope of the curve per doubling.

    The slope is that of a least-squares line through the means over the binary logarithm of the number of queries.

    Args:
        points: `queries` and `mean` of each training size.
        more: number of further queries.

    Returns:
        None with fewer than two sizes.
    """
    if len({point["queries"] for point in points}) < 2:
        return None
    sizes = np.log2([point["queries"] for point in points])
    slope = float(np.polyfit(sizes, [point["mean"] for point in points], 1)[0])
    largest = max(point["queries"] for point in points)
    return slope * float(np.log2((largest + more) / largest))
