"""Select between base, tuned and interpolated weights on dev; the base is always a candidate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.stats.paired import SIGNIFICANT, PairedDifference, paired_difference
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet
from llama_index_ace_finetune.training.model_selection.late_interaction import (
    LateInteractionRecord,
    late_interaction_record,
    rank_candidates,
)
from llama_index_ace_finetune.training.model_selection.retention import Retention, RetentionRecord


def choose_alpha(
    ranked: Sequence[float],
    *,
    base_scores: DevScores,
    groups: Sequence[str],
    on_dev: Callable[[float], DevScores],
    lost: Callable[[float], float],
    bound: float,
    descending: bool = True,
) -> tuple[float, PairedDifference, dict[float, float]]:
    """Return the alpha that ships (0 is the base), its dev difference to the base, and the retention losses by alpha.

    The first alpha ships if it is significantly better than the base on dev and the retention set loses at most
    `bound`. If the retention set loses more, the next smaller alpha is tried. The difference is that of the alpha that
    ships, or of the first if none does.

    Args:
        ranked: alphas above 0, at least one, best on dev first.
        base_scores: of the base on dev.
        groups: resampling group of each dev query.
        on_dev: dev scores of an alpha.
        lost: fall of MRR@10 on the retention set for an alpha.
        bound: the largest allowed fall.
        descending: `ranked` is in the order of dev MRR@10, so none is a gain after one that is not.
    """
    first: PairedDifference | None = None
    losses: dict[float, float] = {}
    for alpha in ranked:
        if losses and alpha > min(losses):
            continue  # larger than an alpha that lost too much
        difference = paired_difference(on_dev(alpha).mrr, base_scores.mrr, groups=groups)
        first = first or difference
        if not difference.is_gain:
            if descending:
                break
            continue
        losses[alpha] = lost(alpha)
        if losses[alpha] <= bound:
            return alpha, difference, losses
    assert first is not None
    return 0.0, first, losses


RULE = (
    "The tuned weights ship if they are a significant gain in MRR@10 against the base model on the dev queries; "
    f"otherwise the base model ships. {SIGNIFICANT}"
)


@dataclass(frozen=True)
class Selection:
    """The candidates on dev and the selected one.

    Attributes:
        alpha: interpolation coefficient of what ships; 0 is the base model, 1 the tuned one.
        difference: paired difference of the best candidate to the base, in MRR@10 on dev; that of a larger alpha if
            synthetic queries selected one (`model_selection.synthetic_dev`).
        candidates: headline metrics per alpha, 0 included.
        ranked_memories: number of memories the candidates were ranked over; the difference is over all memories.
        retention: result on the retention set; None without one.
        late_interaction: result of re-ranking by MaxSim; None if that was not trained.
        scores: of what ships on all of dev; None if unknown.
    """

    alpha: float
    difference: PairedDifference
    candidates: Mapping[float, Mapping[str, float]]
    ranked_memories: int = 0
    retention: RetentionRecord | None = None
    late_interaction: LateInteractionRecord | None = None
    scores: DevScores | None = field(default=None, compare=False, repr=False)

    @property
    def ships_tuned(self) -> bool:
        """Whether tuned weights ship."""
        return self.alpha > 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        kept: dict[str, Any] = {"retention": self.retention.to_dict()} if self.retention else {}
        if self.late_interaction:
            kept["late_interaction"] = self.late_interaction.to_dict()
        return {
            "rule": f"{RULE} {self.retention.rule}" if self.retention else RULE,
            "shipped": "finetuned" if self.ships_tuned else "base",
            "share": self.alpha,
            "dev_difference_mrr@10": asdict(self.difference),
            "dev_candidates_over_memories": self.ranked_memories,
            "dev_candidates": {str(alpha): dict(means) for alpha, means in self.candidates.items()},
            **kept,
        }


def select_weights(
    encoder: Encoder,
    *,
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    base_scores: DevScores,
    dev: DevSet,
    alphas: Sequence[float],
    pool: DevSet | None = None,
    known: Mapping[float, DevScores] | None = None,
    retention: Retention | None = None,
    largest: float = 1.0,
    on_load: Callable[[float], None] | None = None,
) -> Selection:
    """Evaluate interpolations of base and tuned weights on dev, load the best into `encoder.model`, and return it.

    With MaxSim scores of a `RerankedDevSet`, candidates are ranked by the rule of `model_selection.late_interaction`.

    Source: weight-space interpolation, WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903).

    Args:
        encoder: its model receives the selected weights.
        base: state dict before training.
        tuned: state dict of the best checkpoint.
        base_scores: of the base weights on dev.
        dev: the dev queries.
        alphas: interpolation coefficients to try, each in (0, 1]: the largest first, until one is not better than the
            one before it; with a retention set, all of them.
        pool: a smaller set on which alpha is chosen; whether it ships is decided on all of `dev`.
        known: scores by alpha on `pool` (on `dev` without one) that are already known.
        retention: general queries whose MRR@10 may fall by at most a bound.
        largest: alpha that ships; if a larger one is selected, this one ships in its place.
        on_load: called with an alpha when its weights are loaded, to load what belongs to them.
    """

    def loaded(alpha: float) -> Encoder:
        load_interpolated(encoder, base=base, tuned=tuned, alpha=alpha)
        if on_load:
            on_load(alpha)
        return encoder

    compared = pool if pool is not None and pool is not dev else dev
    at_hand = {0.0: base_scores} if compared is dev else {}
    at_hand.update(known or {})
    scores: dict[float, DevScores] = {}
    for alpha in (0.0, *sorted(alphas, reverse=True)):
        scores[alpha] = at_hand[alpha] if alpha in at_hand else compared.score(loaded(alpha))
        larger = min((one for one in scores if one > alpha > 0), default=None)
        if retention is None and larger is not None and not _may_improve(scores[alpha], scores[larger]):
            break
    decisive = {0.0: base_scores}

    def on_dev(alpha: float) -> DevScores:
        decisive[alpha] = scores[alpha] if compared is dev else dev.score(loaded(alpha))
        return decisive[alpha]

    def lost(alpha: float) -> float:
        return retention.loss(retention.queries.score(loaded(alpha))) if retention else 0.0

    alpha, difference, losses = choose_alpha(
        rank_candidates({alpha: one for alpha, one in scores.items() if alpha > 0}, groups=compared.groups),
        base_scores=base_scores,
        groups=dev.groups,
        on_dev=on_dev,
        lost=lost,
        bound=retention.bound if retention else math.inf,
        descending=base_scores.max_sim is None,
    )
    if alpha > largest:
        alpha = largest
        if alpha not in scores:
            scores[alpha] = compared.score(loaded(alpha))
        on_dev(alpha)
    loaded(alpha)
    return Selection(
        alpha=alpha,
        difference=difference,
        candidates={alpha: scores[alpha].means for alpha in sorted(scores)},
        ranked_memories=len(compared.examples.corpus),
        retention=retention.record(losses) if retention else None,
        late_interaction=late_interaction_record(base_scores, decisive[alpha]),
        scores=decisive[alpha],
    )


def _may_improve(smaller: DevScores, larger: DevScores) -> bool:
    """Whether still smaller alphas are worth an evaluation: one that is better by neither measure ends the descent."""
    if smaller.mrr.mean() > larger.mrr.mean():
        return True
    return (
        smaller.max_sim is not None
        and larger.max_sim is not None
        and bool(smaller.max_sim.mean() > larger.max_sim.mean())
    )


def load_interpolated(
    encoder: Encoder, *, base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float
) -> None:
    """Set the model's weights to (1 - alpha) * base + alpha * tuned; 0 and 1 are exact."""
    mixed = {}
    for name, weight in base.items():
        if alpha == 0 or not torch.is_floating_point(weight):
            mixed[name] = weight
        else:
            mixed[name] = (
                tuned[name] if alpha == 1 else torch.lerp(weight.float(), tuned[name].float(), alpha).to(weight)
            )
    encoder.model.load_state_dict(mixed)


def copy_weights(encoder: Encoder) -> dict[str, Tensor]:
    """Return the model's weights, detached and on the CPU."""
    return {name: weight.detach().cpu().clone() for name, weight in encoder.model.state_dict().items()}
