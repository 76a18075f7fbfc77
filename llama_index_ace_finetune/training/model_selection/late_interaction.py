"""Select weights that were trained for single vectors and MaxSim, so that neither loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index_ace_finetune.evaluation.stats.groups import number_groups
from llama_index_ace_finetune.evaluation.stats.standard_error import ROUNDING, standard_error
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores
from llama_index_ace_finetune.training.model_selection.reranked_dev_set import CANDIDATES

RULE = (
    "Of the candidates whose MRR@10 by single vectors is within one standard error of the best on the dev queries, the "
    f"one with the best MRR@10 after re-ranking the first {CANDIDATES} hits by MaxSim is preferred."
)


def is_as_good(ours: DevScores, best: DevScores, *, groups: Sequence[str]) -> bool:
    """Whether the MRR@10 by single vectors is at most one standard error below that of `best`.

    The standard error is that of the paired difference, with the groups as clusters.
    """
    behind = best.mrr - ours.mrr
    return bool(behind.mean() <= standard_error(behind, number_groups(groups, len(behind))) + ROUNDING)


def rank_candidates(scores: Mapping[float, DevScores], *, groups: Sequence[str]) -> list[float]:
    """Return the alphas, best first: by single vectors; with MaxSim scores, by `RULE`, then by single vectors."""
    by_vectors = sorted(scores, key=lambda alpha: (-scores[alpha].mrr.mean(), alpha))
    best = scores[by_vectors[0]]
    max_sim = {alpha: float(one.max_sim.mean()) for alpha, one in scores.items() if one.max_sim is not None}
    near = [alpha for alpha in by_vectors if alpha in max_sim and is_as_good(scores[alpha], best, groups=groups)]
    near.sort(key=lambda alpha: -max_sim[alpha])
    return [*near, *(alpha for alpha in by_vectors if alpha not in near)]


@dataclass(frozen=True)
class LateInteractionRecord:
    """MRR@10 on dev after re-ranking by MaxSim: with the token vectors of the base, and with those that ship."""

    base: float
    shipped: float

    @property
    def is_better(self) -> bool:
        """Whether the token vectors that ship re-rank better than those of the base."""
        return self.shipped > self.base

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"rule": RULE, "max_sim_mrr@10": {"base": self.base, "shipped": self.shipped}}


def late_interaction_record(base: DevScores, shipped: DevScores) -> LateInteractionRecord | None:
    """Return the record of two models; None without their MaxSim scores."""
    if base.max_sim is None or shipped.max_sim is None:
        return None
    return LateInteractionRecord(float(base.max_sim.mean()), float(shipped.max_sim.mean()))
