"""Measure what dev evaluations cost."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.loop.budget import EvaluationCost
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.training.model_selection.retention import Retention


def measure_evaluation_cost(
    encoder: Encoder, *, pool: DevSet, dev: DevSet, alphas: Sequence[float], retention: Retention | None
) -> EvaluationCost:
    """Return the seconds of one evaluation during training, and of the evaluations of `select_weights`.

    Args:
        encoder: the model, before its weights are trained.
        pool: queries of the evaluations during training and of the interpolations.
        dev: queries of the final decision.
        alphas: interpolation coefficients to try.
        retention: general queries, evaluated once.
    """
    each = pool.score_seconds(encoder)
    interpolations = expected_interpolations(alphas, all_of_them=retention is not None)
    decision = 0.0 if pool is dev else dev.score_seconds(encoder)
    general = retention.queries.score_seconds(encoder) if retention else 0.0
    return EvaluationCost(each=each, after=interpolations * each + decision + general)


def expected_interpolations(alphas: Sequence[float], *, all_of_them: bool) -> int:
    """Return how many interpolations `select_weights` is expected to evaluate: mostly the second is the last."""
    below = sum(alpha < 1 for alpha in alphas)
    return below if all_of_them else min(below, 2)
