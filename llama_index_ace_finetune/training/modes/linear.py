"""Mode `linear`: a query adapter, fitted in seconds; the stored index stays valid."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.data.query_weights import query_weights
from llama_index_ace_finetune.training.loop.callback import StepProgress
from llama_index_ace_finetune.training.loop.fit import OnPlan
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores
from llama_index_ace_finetune.training.model_selection.interpolation import Selection, choose_alpha
from llama_index_ace_finetune.training.model_selection.retention import Retention
from llama_index_ace_finetune.training.modes.linear_adapter import LinearAdapterSettings, fit_query_adapter
from llama_index_ace_finetune.training.modes.mode import Mode, ModeEstimate, Speed, TrainingSizes
from llama_index_ace_finetune.training.modes.query_encoder import apply_adapter
from llama_index_ace_finetune.training.modes.result import ModeResult
from llama_index_ace_finetune.training.saving.dual_encoder import with_query_adapter


def train_linear(
    context: TrainingContext,
    *,
    previous: Sequence[ModeResult] = (),
    minutes: float | None = None,
    progress: StepProgress | None = None,
    on_plan: OnPlan | None = None,
) -> ModeResult:
    """Fit a query adapter over the base's vectors; it takes seconds, whatever the budget.

    `context` needs dev queries: a matrix that is not validated does not ship.
    """
    assert context.dev is not None
    start = time.perf_counter()
    dev, retention = context.dev, context.retention
    fit = fit_query_adapter(
        context.query_vectors,
        context.document_vectors,
        context.examples.relevant,
        dev_queries=context.dev_query_vectors,
        dev_relevant=dev.examples.relevant,
        own=context.examples.own,
        dev_own=dev.examples.own,
        weights=query_weights(context.examples, context.config.synthetic_weight),
    )
    alpha = float(fit.chosen.kind != "identity")
    difference = fit.difference
    losses: dict[float, float] = {}
    if alpha and retention:
        alpha, difference, losses = _keep_general(context, fit.matrix, retention)
    alpha = min(alpha, context.largest_alpha)
    matrix = interpolate_identity(fit.matrix, alpha)
    scores = context.base_scores
    if alpha:
        scores = dev.rank(apply_adapter(context.dev_query_vectors, matrix), context.document_vectors)
    selection = Selection(
        alpha=alpha,
        difference=difference,
        candidates={0.0: context.base_scores.means} | ({alpha: scores.means} if alpha else {}),
        ranked_memories=len(context.examples.corpus),
        retention=retention.record(losses) if retention else None,
        scores=scores,
    )
    return ModeResult(
        name="linear",
        selection=selection,
        dev_mrr=float(context.base_scores.mrr.mean()) + difference.mean,
        steps=max(candidate.steps for candidate in fit.candidates),
        epochs=0.0,
        seconds=time.perf_counter() - start,
        history=(),
        build=lambda base: with_query_adapter(base, matrix),
        query_adapter=matrix if alpha else None,
    )


def interpolate_identity(matrix: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """Return (1 - alpha) * identity + alpha * matrix; alpha 1 is exact."""
    if alpha == 1:
        return matrix
    return np.asarray((1 - alpha) * np.eye(len(matrix)) + alpha * matrix, np.float32)


def _keep_general(
    context: TrainingContext, matrix: NDArray[np.float32], retention: Retention
) -> tuple[float, PairedDifference, dict[float, float]]:
    """Choose the largest interpolation toward the adapter that the retention set allows."""
    assert context.dev is not None
    dev = context.dev

    def moved(queries: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
        return apply_adapter(queries, interpolate_identity(matrix, alpha))

    def on_dev(alpha: float) -> DevScores:
        return dev.rank(moved(context.dev_query_vectors, alpha), context.document_vectors)

    def lost(alpha: float) -> float:
        queries = moved(context.general_query_vectors, alpha)
        return retention.loss(retention.queries.rank(queries, context.general_document_vectors))

    return choose_alpha(
        sorted({1.0, *context.config.interpolation}, reverse=True),
        base_scores=context.base_scores,
        groups=dev.groups,
        on_dev=on_dev,
        lost=lost,
        bound=retention.bound,
    )


def _estimate(
    config: TrainingConfig, sizes: TrainingSizes, speed: Speed, *, seconds: float | None, after: Sequence[str]
) -> ModeEstimate:
    settings = LinearAdapterSettings()
    steps = len(settings.l2_weights) * settings.steps
    return ModeEstimate(f"{steps} steps", steps * speed.linear_step)


MODE = Mode(name="linear", keeps_index=True, needs_dev=True, train=train_linear, estimate=_estimate)
