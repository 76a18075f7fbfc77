"""Do no harm: the base model is always a candidate, and the tuned one has to beat it on dev."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference, paired_difference
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet
from llama_index_ace_finetune.training.model_selection.retention import Retention, RetentionRecord


def choose_alpha(
    ranked: Sequence[float],
    *,
    base_scores: DevScores,
    groups: Sequence[str],
    on_dev: Callable[[float], DevScores],
    lost: Callable[[float], float],
    bound: float,
) -> tuple[float, PairedDifference, dict[float, float]]:
    """Return the share that ships (0 is the base), a difference to the base on dev, and what the shares lose elsewhere.

    The first share ships if it is surely better than the base on dev and does not lose too much elsewhere. One that is
    better and does is passed over for the next smaller share, of which the same is asked. The difference is that of
    the share that ships; where none does, of the first.

    Args:
        ranked: shares above 0, at least one, best on dev first.
        base_scores: of the base on dev.
        groups: what each dev query is resampled with.
        on_dev: scores of a share on dev.
        lost: what a share loses on queries of another kind.
        bound: the largest loss that is allowed.
    """
    first: PairedDifference | None = None
    losses: dict[float, float] = {}
    for alpha in ranked:
        if losses and alpha > min(losses):
            continue  # further from the base than one that lost too much
        difference = paired_difference(on_dev(alpha).mrr, base_scores.mrr, groups=groups)
        first = first or difference
        if not difference.is_gain:
            break  # those that follow are lower still
        losses[alpha] = lost(alpha)
        if losses[alpha] <= bound:
            return alpha, difference, losses
    assert first is not None
    return 0.0, first, losses


RULE = (
    "Ship the tuned weights if the 95 % bootstrap interval (resampled by right answer) of the paired difference "
    "in MRR@10 to the base model on the dev queries lies above zero, and the randomisation test gives p <= 0.05; "
    "else ship the base model."
)


@dataclass(frozen=True)
class Selection:
    """What was tried on dev and what won.

    Attributes:
        alpha: of the tuned weights in what ships; 0 is the base model.
        difference: of the best candidate to the base, in MRR@10 on dev.
        candidates: headline means per share, 0 included.
        ranked_memories: how many memories the candidates were ranked over; the difference is over all of them.
        retention: what general queries lost; None where there are none.
    """

    alpha: float
    difference: PairedDifference
    candidates: Mapping[float, Mapping[str, float]]
    ranked_memories: int = 0
    retention: RetentionRecord | None = None

    @property
    def ships_tuned(self) -> bool:
        """Whether the rule let tuned weights through."""
        return self.alpha > 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        kept = {"retention": self.retention.to_dict()} if self.retention else {}
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
) -> Selection:
    """Try interpolations between base and tuned weights on dev, load the winner into `encoder.model`, and say so.

    Source: weight-space interpolation, WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903).

    Args:
        encoder: holds the model whose weights are set.
        base: state dict before training.
        tuned: state dict of the best checkpoint.
        base_scores: of the base weights on dev.
        dev: the dev queries.
        alphas: of the tuned weights to try, each in (0, 1].
        pool: a smaller set on which the share is chosen; whether it ships is decided on the whole of `dev`.
        known: scores of shares on `pool` (on `dev` without one) that need not be computed again.
        retention: general queries that may not lose more than a bound; a share at which they do is not shipped.
    """
    compared = pool if pool is not None and pool is not dev else dev
    at_hand = {0.0: base_scores} if compared is dev else {}
    at_hand.update(known or {})
    scores: dict[float, DevScores] = {}
    for alpha in sorted({*alphas, 0.0}):
        if alpha not in at_hand:
            load_interpolated(encoder, base=base, tuned=tuned, alpha=alpha)
        scores[alpha] = at_hand[alpha] if alpha in at_hand else compared.score(encoder)

    def loaded(alpha: float) -> Encoder:
        load_interpolated(encoder, base=base, tuned=tuned, alpha=alpha)
        return encoder

    def lost(alpha: float) -> float:
        return retention.loss(retention.queries.score(loaded(alpha))) if retention else 0.0

    alpha, difference, losses = choose_alpha(
        sorted((alpha for alpha in scores if alpha > 0), key=lambda alpha: (-scores[alpha].mrr.mean(), alpha)),
        base_scores=base_scores,
        groups=dev.groups,
        on_dev=lambda alpha: scores[alpha] if compared is dev else dev.score(loaded(alpha)),
        lost=lost,
        bound=retention.bound if retention else math.inf,
    )
    load_interpolated(encoder, base=base, tuned=tuned, alpha=alpha)
    return Selection(
        alpha=alpha,
        difference=difference,
        candidates={alpha: scores[alpha].means for alpha in sorted(scores)},
        ranked_memories=len(compared.examples.corpus),
        retention=retention.record(losses) if retention else None,
    )


def load_interpolated(
    encoder: Encoder, *, base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float
) -> None:
    """Set the model's weights to (1 - share) * base + share * tuned; share 0 and 1 are exact."""
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
    """Return the model's weights, detached and on the processor."""
    return {name: weight.detach().cpu().clone() for name, weight in encoder.model.state_dict().items()}
