"""What dev will cost a training."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.loop.budget import EvaluationCost
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.training.model_selection.retention import Retention


def measure_evaluation_cost(
    encoder: Encoder, *, pool: DevSet, dev: DevSet, alphas: Sequence[float], retention: Retention | None
) -> EvaluationCost:
    """Return the seconds of a look on the way, and of what `select_weights` looks at in the end.

    Args:
        encoder: the model, before its weights are trained.
        pool: what it is looked at on during the training, and mixtures in the end.
        dev: what the decision is made on.
        alphas: of the tuned weights that are tried.
        retention: general queries that are looked at once.
    """
    each = pool.score_seconds(encoder)
    mixtures = sum(alpha < 1 for alpha in alphas)
    decision = 0.0 if pool is dev else dev.score_seconds(encoder)
    general = retention.queries.score_seconds(encoder) if retention else 0.0
    return EvaluationCost(each=each, after=mixtures * each + decision + general)
