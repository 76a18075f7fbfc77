"""Mode `queries`: a query encoder over fixed document vectors; the stored index stays valid."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.loop.budget import EvaluationCost, StepPlan
from llama_index_ace_finetune.training.loop.callback import DevEvaluationCallback, StepProgress
from llama_index_ace_finetune.training.loop.evaluation_cost import measure_evaluation_cost
from llama_index_ace_finetune.training.loop.fit import OnPlan
from llama_index_ace_finetune.training.model_selection.interpolation import copy_weights, select_weights
from llama_index_ace_finetune.training.modes.mode import Mode, ModeEstimate, Speed, TrainingSizes
from llama_index_ace_finetune.training.modes.query_encoder import (
    FixedDocumentsDevSet,
    QueryEncoderSettings,
    apply_adapter,
    train_query_encoder,
)
from llama_index_ace_finetune.training.modes.result import ModeResult
from llama_index_ace_finetune.training.saving.dual_encoder import dual_encoder


def train_queries(
    context: TrainingContext,
    *,
    previous: Sequence[ModeResult] = (),
    minutes: float | None,
    progress: StepProgress | None = None,
    on_plan: OnPlan | None = None,
) -> ModeResult:
    """Train a copy of the base as the query encoder, over the base's document vectors.

    Args:
        context: with dev queries.
        previous: results of earlier modes; the query adapter of the last one, if any, is kept behind the encoder.
        minutes: of training and dev evaluations, at most; None trains all epochs.
        progress: called after each step.
        on_plan: called with the planned steps before the first.
    """
    assert context.dev is not None
    start = time.perf_counter()
    matrix = next((result.query_adapter for result in reversed(previous)), None)
    base, config = context.encoder, context.config
    dev = FixedDocumentsDevSet(context.dev.examples, context.document_vectors, matrix)
    query_encoder = Encoder(
        copy.deepcopy(base.model), name=base.name, fingerprint=base.fingerprint, settings=base.settings
    )
    base_weights = copy_weights(base)
    retention = context.retention
    if retention:
        general = FixedDocumentsDevSet(retention.queries.examples, context.general_document_vectors, matrix)
        retention = dataclasses.replace(retention, queries=general)
    begun = dev.rank(apply_adapter(context.dev_query_vectors, matrix), context.document_vectors)
    callback = DevEvaluationCallback(
        query_encoder,
        dev,
        base_scores=begun,
        eval_steps=None,
        patience=config.patience,
        progress=progress,
        on_evaluation=context.evaluation_phase("queries"),
    )
    steps, epochs = train_query_encoder(
        query_encoder,
        context.examples,
        context.document_vectors,
        settings=QueryEncoderSettings(
            budget_minutes=minutes,
            max_seq_length=config.max_seq_length,
            seed=config.seed,
            synthetic_weight=config.synthetic_weight,
        ),
        matrix=matrix,
        callbacks=[callback],
        evaluation_cost=measure_evaluation_cost(
            query_encoder, pool=dev, dev=dev, alphas=config.interpolation, retention=retention
        ),
        on_plan=on_plan,
        checkpoints=context.checkpoints_of("queries"),
    )
    assert callback.best_weights is not None
    assert callback.best_scores is not None
    context.on_phase("queries: evaluating")
    selection = select_weights(
        query_encoder,
        base=base_weights,
        tuned=callback.best_weights,
        base_scores=context.base_scores,
        dev=dev,
        alphas=config.interpolation,
        known={0.0: begun, 1.0: callback.best_scores},
        retention=retention,
    )
    return ModeResult(
        name="queries",
        selection=selection,
        dev_mrr=float(context.base_scores.mrr.mean()) + selection.difference.mean,
        steps=steps,
        epochs=epochs,
        seconds=time.perf_counter() - start,
        history=callback.history,
        build=lambda model: dual_encoder(query_encoder.model, model, matrix),
    )


def _estimate(config: TrainingConfig, sizes: TrainingSizes, speed: Speed, seconds: float | None) -> ModeEstimate:
    settings = QueryEncoderSettings()
    evaluation = sizes.dev * speed.embed
    batches = max(1, -(-sizes.train_queries // settings.batch_size))
    interpolations = sum(alpha < 1 for alpha in config.interpolation)
    plan = StepPlan.within(
        seconds,
        steps=settings.epochs * batches,
        step_seconds=sizes.train * speed.train / batches,
        evaluate_every=batches,
        evaluation_cost=EvaluationCost(each=evaluation, after=interpolations * evaluation),
    )
    if plan.steps == 1 < settings.epochs * batches:
        return ModeEstimate("not started: the budget allows only one step", 0.0)
    return ModeEstimate(f"up to {settings.epochs} epochs, queries only", plan.seconds)


MODE = Mode(
    name="queries",
    keeps_index=True,
    needs_dev=True,
    train=train_queries,
    estimate=_estimate,
    starts_from=("linear",),
    budget_share=0.2,
)
