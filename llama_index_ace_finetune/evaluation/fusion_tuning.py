"""The weight of the dense leg against BM25, chosen on dev."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from llama_index_ace_finetune.evaluation.aligned_legs import AlignedLegs
from llama_index_ace_finetune.evaluation.convex_fusion import Normalisation, ScoredLeg, align_convex
from llama_index_ace_finetune.evaluation.judgements import Judgements
from llama_index_ace_finetune.evaluation.measures import MRR, per_query
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System
from llama_index_ace_finetune.evaluation.weight_choice import EQUAL, choose_weight
from llama_index_ace_finetune.ranking.fusion import RRF_K

MIN_QUERIES = 40
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_DEPTH = 10


@dataclass(frozen=True)
class FusionChoice:
    """Weights (dense, lexical) that sum to 1, why they were taken, and dev MRR@10 per dense weight of the grid.

    `dropped` names the leg that does not help, and whose weight is therefore 0.
    """

    weights: tuple[float, float]
    reason: str
    curve: dict[float, float] = field(default_factory=dict)
    dropped: Literal["dense", "BM25"] | None = None


def tune_fusion(dense: System, lexical: System, dev: EvaluationSet) -> FusionChoice:
    """Choose the dense weight of RRF by MRR@10 on dev, so that chance does not choose it.

    `choose_weight` says how: the weight nearest to equal within one standard error of the best, and only if that
    way of choosing gains on groups of queries it has not seen. At weight 0 or 1 a leg is dropped, and only if no
    weight in between is as good. With fewer than 40 queries the weights stay equal;
    whether they are served then is for `choose_system` to say.

    Raises:
        AceFinetuneError: for rankings or answers that `find_right_hits` refuses.
    """
    legs = [dense.rankings, lexical.rankings]
    gains = [np.broadcast_to(1 / (RRF_K + 1.0 + np.arange(leg.shape[1])), leg.shape) for leg in legs]
    return _tune(AlignedLegs.of(legs, gains), dev)


def tune_convex_fusion(
    dense: ScoredLeg, lexical: ScoredLeg, dev: EvaluationSet, *, normalisation: Normalisation = "min-max"
) -> FusionChoice:
    """`tune_fusion` for `fuse_convex`: the dense weight of a weighted sum of normalised scores.

    Raises:
        AceFinetuneError: as `tune_fusion`, and for scores that `normalise_scores` refuses.
    """
    return _tune(align_convex([dense, lexical], normalisation=normalisation), dev)


def _tune(legs: AlignedLegs, dev: EvaluationSet) -> FusionChoice:
    count = len(dev.queries)
    if count < MIN_QUERIES:
        return FusionChoice((EQUAL, EQUAL), f"equal, as {count} dev queries are too few to choose on")
    measure, judgements = MRR(_DEPTH), Judgements.of(dev.relevant)
    values = np.stack(
        [per_query(measure, legs.fuse((weight, 1 - weight), limit=_DEPTH), judgements) for weight in GRID]
    )
    curve = {weight: round(float(value.mean()), 4) for weight, value in zip(GRID, values, strict=True)}
    choice = choose_weight(values, np.array(GRID), groups=dev.groups)
    if not choice.held:
        reason = (
            f"equal, as choosing by {measure} on {count} dev queries (best {choice.best:g}) gains {choice.gain:+.3f} "
            f"+- {choice.error:.3f} on queries left out of the choice"
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
