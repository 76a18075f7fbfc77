"""The rule by which a share of the tuned weights ships, or the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama_index_ace_finetune.evaluation.significance import PairedDifference, paired_difference
from llama_index_ace_finetune.training.dev_set import DevScores


def choose_share(
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
    for share in ranked:
        if losses and share > min(losses):
            continue  # further from the base than one that lost too much
        difference = paired_difference(on_dev(share).mrr, base_scores.mrr, groups=groups)
        first = first or difference
        if not difference.is_gain:
            break  # those that follow are lower still
        losses[share] = lost(share)
        if losses[share] <= bound:
            return share, difference, losses
    assert first is not None
    return 0.0, first, losses
