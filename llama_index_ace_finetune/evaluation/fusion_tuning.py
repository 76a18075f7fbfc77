"""The weight of the dense leg against BM25, chosen on dev."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from llama_index_ace_finetune.evaluation.measures import MRR, per_query
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System
from llama_index_ace_finetune.ranking.fusion import RRF_K, fuse_rankings

MIN_QUERIES = 40
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_EQUAL = 0.5
_DEPTH = 10


@dataclass(frozen=True)
class FusionChoice:
    """Weights (dense, lexical) that sum to 1, why they were taken, and dev MRR@10 per dense weight of the grid."""

    weights: tuple[float, float]
    reason: str
    curve: dict[float, float] = field(default_factory=dict)


def tune_fusion(dense: System, lexical: System, dev: EvaluationSet) -> FusionChoice:
    """Choose the dense weight of RRF by MRR@10 on dev, pulled to equal weights within one standard error.

    Among all weights whose paired difference to the best is within one standard error of it, the one nearest to
    equal is taken; at weight 0 or 1 a leg is dropped, and only if no weight in between is as good. With fewer than
    40 queries the weights stay equal.

    Source: the one-standard-error rule, Breiman et al., "Classification and Regression Trees", 1984.
    """
    count = len(dev.queries)
    if count < MIN_QUERIES:
        return FusionChoice((_EQUAL, _EQUAL), f"equal, as {count} dev queries are too few to choose on")
    measure = MRR(_DEPTH)
    values = {}
    for weight in GRID:
        fused = fuse_rankings([dense.rankings, lexical.rankings], weights=(weight, 1 - weight), k=RRF_K, limit=_DEPTH)
        values[weight] = per_query(measure, fused, dev.relevant)
    curve = {weight: round(float(value.mean()), 4) for weight, value in values.items()}
    best = max(GRID, key=lambda weight: (values[weight].mean(), -abs(weight - _EQUAL)))
    near = [weight for weight in GRID if _within_one_error(values[best] - values[weight])]
    chosen = min(near, key=lambda weight: (abs(weight - _EQUAL), -values[weight].mean()))
    reason = f"dense weight {chosen:g} by MRR@10 on {count} dev queries (best {best:g}, within one standard error)"
    if chosen in (0.0, 1.0):
        reason += "; the BM25 leg does not help" if chosen == 1.0 else "; the dense leg does not help"
    return FusionChoice((chosen, round(1 - chosen, 10)), reason, curve)


def _within_one_error(difference: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bool:
    error = float(difference.std(ddof=1)) / np.sqrt(len(difference))
    return bool(difference.mean() <= error)
