"""Select the fusion weights of the dense leg and BM25 on dev."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.metrics.measures import MRR, per_query
from llama_index_ace_finetune.evaluation.metrics.qrels import Qrels
from llama_index_ace_finetune.evaluation.stats.groups import Groups, number_groups
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System
from llama_index_ace_finetune.ranking.aligned_legs import AlignedLegs
from llama_index_ace_finetune.ranking.convex_fusion import Normalisation, ScoredLeg, align_convex
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import RRF_K

EQUAL = 0.5
_FOLDS = 5
ROUNDING = 1e-12


@dataclass(frozen=True)
class WeightChoice:
    """The selected weight and the evidence for it.

    Attributes:
        weight: the selected weight.
        best: the weight with the highest mean.
        gain: cross-validated gain over equal weights; None without folds.
        error: standard error of that gain, by group.
        cross_validated: whether the gain exceeds its standard error, or equal weights were selected anyway.
    """

    weight: float
    best: float
    gain: float | None
    error: float | None
    cross_validated: bool


def choose_weight(
    values: NDArray[np.float64], grid: NDArray[np.float64], *, groups: Groups | None = None, seed: int = 0
) -> WeightChoice:
    """Select the weight of the first of two legs by the mean of per-query values.

    1. Of all weights whose mean is within one standard error of the best, the one nearest to equal is selected.
    2. This selection is cross-validated on five folds of the groups. If its gain over equal weights on the left-out
       folds does not exceed the standard error, the weights stay equal: a selection that does not generalise to other
       queries of the same set will not generalise to new ones.

    Standard errors are those of paired differences, clustered by group.
    Source: the one-standard-error rule, Breiman et al., "Classification and Regression Trees", 1984.

    Args:
        values: per weight and query, float [w, n], n above 0.
        grid: weights of the first leg in [0, 1], float [w]; must include .5.
        groups: the group of each query [n].
        seed: random seed of the folds.
    """
    labels = number_groups(groups, values.shape[1])
    equal = int(np.flatnonzero(np.isclose(grid, EQUAL))[0])
    best, chosen = _one_standard_error_rule(values, grid, labels)
    if chosen == equal:
        return WeightChoice(float(grid[equal]), float(grid[best]), None, None, cross_validated=True)
    count = int(labels.max()) + 1
    folds = min(_FOLDS, count)
    fold_of = (np.random.default_rng(seed).permutation(count) % folds)[labels]
    gains = np.zeros(values.shape[1])
    for fold in range(folds if folds > 1 else 0):
        left_out = fold_of == fold
        _, taken = _one_standard_error_rule(values[:, ~left_out], grid, labels[~left_out])
        gains[left_out] = values[taken, left_out] - values[equal, left_out]
    gain, error = float(gains.mean()), standard_error(gains, labels)
    cross_validated = gain > error + ROUNDING
    return WeightChoice(
        float(grid[chosen] if cross_validated else grid[equal]), float(grid[best]), gain, error, cross_validated
    )


def _one_standard_error_rule(
    values: NDArray[np.float64], grid: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[int, int]:
    """Return the indices of the best weight and of the one that the rule selects."""
    means = np.round(values.mean(axis=1), 12)
    distance = np.abs(grid - EQUAL).round(9)
    best = int(np.lexsort((distance, -means))[0])
    behind = [values[best] - value for value in values]
    near = [place for place, d in enumerate(behind) if d.mean() <= standard_error(d, labels) + ROUNDING]
    return best, min(near, key=lambda place: (distance[place], -means[place]))


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


MIN_QUERIES = 40
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_DEPTH = 10


@dataclass(frozen=True)
class FusionChoice:
    """Weights (dense, lexical) that sum to 1, the reason for them, and dev MRR@10 per dense weight of the grid.

    `dropped` names the leg that does not help, and that therefore has weight 0.
    """

    weights: tuple[float, float]
    reason: str
    curve: dict[float, float] = field(default_factory=dict)
    dropped: Literal["dense", "BM25"] | None = None


def tune_fusion(dense: System, lexical: System, dev: EvaluationSet) -> FusionChoice:
    """Select the dense weight of RRF by MRR@10 on dev, robust to chance.

    The rule is that of `choose_weight`: the weight nearest to equal within one standard error of the best, if the
    selection gains in cross-validation. Weight 0 or 1 drops a leg, only if no weight in between is as good. With
    fewer than 40 queries the weights stay equal; `select_system` then decides whether the hybrid is served.

    Raises:
        AceFinetuneError: for rankings or qrels that `match_qrels` rejects.
    """
    legs = [dense.rankings, lexical.rankings]
    gains = [np.broadcast_to(1 / (RRF_K + 1.0 + np.arange(leg.shape[1])), leg.shape) for leg in legs]
    return _tune(AlignedLegs.of(legs, gains), dev)


def tune_convex_fusion(
    dense: ScoredLeg, lexical: ScoredLeg, dev: EvaluationSet, *, normalisation: Normalisation = "min-max"
) -> FusionChoice:
    """`tune_fusion` for `fuse_convex`: the dense weight of a weighted sum of normalised scores.

    Raises:
        AceFinetuneError: as `tune_fusion`, and for scores that `normalise_scores` rejects.
    """
    return _tune(align_convex([dense, lexical], normalisation=normalisation), dev)


def _tune(legs: AlignedLegs, dev: EvaluationSet) -> FusionChoice:
    count = len(dev.queries)
    if count < MIN_QUERIES:
        return FusionChoice((EQUAL, EQUAL), f"equal, as {count} dev queries are too few to select weights on")
    measure, qrels = MRR(_DEPTH), Qrels.of(dev.relevant)
    values = np.stack([per_query(measure, legs.fuse((weight, 1 - weight), limit=_DEPTH), qrels) for weight in GRID])
    curve = {weight: round(float(value.mean()), 4) for weight, value in zip(GRID, values, strict=True)}
    choice = choose_weight(values, np.array(GRID), groups=dev.groups)
    if not choice.cross_validated:
        reason = (
            f"equal, as selecting by {measure} on {count} dev queries (best {choice.best:g}) gains {choice.gain:+.3f} "
            f"+- {choice.error:.3f} in cross-validation"
        )
        return FusionChoice((EQUAL, EQUAL), reason, curve)
    reason = (
        f"dense weight {choice.weight:g} by {measure} on {count} dev queries "
        f"(best {choice.best:g}, within one standard error)"
    )
    dropped: Literal["dense", "BM25"] | None = None
    if choice.weight in (0.0, 1.0):
        dropped = "BM25" if choice.weight == 1.0 else "dense"
        reason += f"; the {dropped} leg does not help"
    return FusionChoice((choice.weight, round(1 - choice.weight, 10)), reason, curve, dropped)
