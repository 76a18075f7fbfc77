"""Train a query encoder over document vectors that stay as they are, and select its weights on dev."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.loop.budget import EvaluationCost, StepPlan
from llama_index_ace_finetune.training.loop.callback import DevEvaluationCallback, StepProgress
from llama_index_ace_finetune.training.loop.evaluation_cost import expected_interpolations, measure_evaluation_cost
from llama_index_ace_finetune.training.loop.fit import OnPlan
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores
from llama_index_ace_finetune.training.model_selection.interpolation import copy_weights, select_weights
from llama_index_ace_finetune.training.modes.mode import ModeEstimate, Speed, TrainingSizes
from llama_index_ace_finetune.training.modes.query_encoder import (
    FixedDocumentsDevSet,
    QueryEncoderSettings,
    train_query_encoder,
)
from llama_index_ace_finetune.training.modes.result import ModeResult

if TYPE_CHECKING:
    from llama_index_ace_finetune.training.config import ModeName


@dataclass(frozen=True)
class Documents:
    """What a query encoder is trained against.

    Attributes:
        vectors: of the corpus, float32 [m, d].
        general: of the memories of the retention set, float32 [h, d]; called only if there is one.
        matrix: float32 [d, d] behind the query encoder; None for none.
        start: dev scores of the query encoder before it is trained.
    """

    vectors: NDArray[np.float32]
    general: Callable[[], NDArray[np.float32]]
    matrix: NDArray[np.float32] | None
    start: DevScores


def train_query_tower(
    context: TrainingContext,
    documents: Documents,
    *,
    name: ModeName,
    build: Callable[[SentenceTransformer, SentenceTransformer], SentenceTransformer],
    minutes: float | None,
    progress: StepProgress | None,
    on_plan: OnPlan | None,
    token_projection: NDArray[np.float32] | None = None,
) -> ModeResult:
    """Train a copy of `context.encoder`, with the weights that it has now, as the query encoder.

    Args:
        context: with dev queries.
        documents: the vectors, and where the query encoder starts.
        name: of the mode.
        build: turns the trained query model and the base model into the model that the mode would ship.
        minutes: of training and dev evaluations, at most; None trains all epochs.
        progress: called after each step.
        on_plan: called with the planned steps before the first.
        token_projection: of the model that embeds the documents.
    """
    assert context.dev is not None
    start = time.perf_counter()
    encoder, config, matrix, retention = context.encoder, context.config, documents.matrix, context.retention
    dev = FixedDocumentsDevSet(context.dev.examples, documents.vectors, matrix)
    query_encoder = Encoder(
        copy.deepcopy(encoder.model), name=encoder.name, fingerprint=encoder.fingerprint, settings=encoder.settings
    )
    first_weights = copy_weights(query_encoder)
    if retention:
        general = FixedDocumentsDevSet(retention.queries.examples, documents.general(), matrix)
        retention = dataclasses.replace(retention, queries=general)
    callback = DevEvaluationCallback(
        query_encoder,
        dev,
        base_scores=documents.start,
        eval_steps=None,
        patience=config.patience,
        progress=progress,
        on_evaluation=context.evaluation_phase(name),
    )
    steps, epochs = train_query_encoder(
        query_encoder,
        context.examples,
        documents.vectors,
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
        checkpoints=context.checkpoints_of(name),
    )
    assert callback.best_weights is not None
    assert callback.best_scores is not None
    context.on_phase(f"{name}: evaluating")
    selection = select_weights(
        query_encoder,
        base=first_weights,
        tuned=callback.best_weights,
        base_scores=context.base_scores,
        dev=dev,
        alphas=config.interpolation,
        known={0.0: documents.start, 1.0: callback.best_scores},
        retention=retention,
        largest=context.largest_alpha,
    )
    return ModeResult(
        name=name,
        selection=selection,
        dev_mrr=float(context.base_scores.mrr.mean()) + selection.difference.mean,
        steps=steps,
        epochs=epochs,
        seconds=time.perf_counter() - start,
        history=callback.history,
        build=lambda model: build(query_encoder.model, model),
        token_projection=token_projection,
    )


def estimate_query_tower(
    config: TrainingConfig, sizes: TrainingSizes, speed: Speed, *, seconds: float | None, after: Sequence[str]
) -> ModeEstimate:
    """Return what `train_query_tower` will do, and how long it takes."""
    settings = QueryEncoderSettings()
    evaluation = sizes.dev * speed.embed
    batches = max(1, -(-sizes.train_queries // settings.batch_size))
    interpolations = expected_interpolations(config.interpolation, all_of_them=config.retention is not None)
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
