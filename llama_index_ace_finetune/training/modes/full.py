"""Mode `full`: train queries and documents; takes minutes, and the memories have to be indexed again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.config import ModeName, TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.data.task_batches import batches_per_epoch
from llama_index_ace_finetune.training.loop.budget import EvaluationCost, StepPlan
from llama_index_ace_finetune.training.loop.callback import DevEvaluationCallback, StepProgress
from llama_index_ace_finetune.training.loop.evaluation_cost import expected_interpolations
from llama_index_ace_finetune.training.loop.fit import OnPlan, fit
from llama_index_ace_finetune.training.losses.masked_ranking import MaskedRankingLoss
from llama_index_ace_finetune.training.model_selection.dev_set import POOL_DEPTH, POOL_QUERIES, DevSet
from llama_index_ace_finetune.training.model_selection.interpolation import Selection, copy_weights, select_weights
from llama_index_ace_finetune.training.modes.assist import divided_batches
from llama_index_ace_finetune.training.modes.frozen_layers import frozen_layers
from llama_index_ace_finetune.training.modes.full_batches import (
    clustered_batches,
    config_of,
    main_collators,
    packs,
    remined_negatives,
)
from llama_index_ace_finetune.training.modes.late_interaction import (
    SelectionSets,
    is_preferred,
    late_interaction_of,
)
from llama_index_ace_finetune.training.modes.lora import merged_weights, with_adapters
from llama_index_ace_finetune.training.modes.mode import Mode, ModeEstimate, Speed, TrainingSizes
from llama_index_ace_finetune.training.modes.result import ModeResult
from llama_index_ace_finetune.training.modes.tasks import task_batches, task_collators, training_ids


def train_full(
    context: TrainingContext,
    *,
    previous: Sequence[ModeResult] = (),
    minutes: float | None,
    progress: StepProgress | None = None,
    on_plan: OnPlan | None = None,
    name: ModeName = "full",
    steps: int | None = None,
    scheduled: int | None = None,
) -> ModeResult:
    """Train queries and documents, and choose on dev between the base, the tuned weights and interpolations of both.

    Args:
        context: without dev queries nothing can be selected, and the last weights ship without validation.
        previous: the base is trained; with late interaction, the result is compared with theirs.
        minutes: of training and dev evaluations, at most; None trains all epochs.
        progress: called after each step.
        on_plan: called with the planned steps before the first.
        name: "in_batch" trains without mined negatives, but with those that the data label as irrelevant.
        steps: train exactly N steps; None trains all epochs, or as many steps as fit.
        scheduled: with `steps`, the step at which the learning rate would be zero; None for the last one.
    """
    start = time.perf_counter()
    config = config_of(name, context.config, judged=bool(context.examples.judged))
    encoder, dev = context.encoder, context.dev
    model, base_weights, retention = encoder.model, copy_weights(encoder), context.retention
    late = late_interaction_of(context)
    base_projection = late.matrix() if late else None
    pool = pool_scores = sets = None
    if dev:
        pool, queries, documents = dev.pooled(context.base_scores.rankings, seed=config.seed)
        pool_scores = pool.rank(context.dev_query_vectors[queries], context.document_vectors[documents])
        sets = SelectionSets.of(context, pool=pool, pool_scores=pool_scores, late=late)
    trained = encoder
    if config.lora_rank is not None:
        adapted = with_adapters(model, config)
        trained = Encoder(adapted, name=encoder.name, fingerprint=encoder.fingerprint, settings=encoder.settings)
    # Dev and re-mining evaluate merged weights, and merged weights ship.
    merge = (lambda: model.load_state_dict(merged_weights(trained.model))) if trained is not encoder else None
    remined = remined_negatives(context, config, name, before=merge)
    callback = DevEvaluationCallback(
        encoder,
        pool,
        base_scores=pool_scores,
        eval_steps=config.eval_steps,
        patience=config.patience,
        progress=progress,
        on_evaluation=context.evaluation_phase(name),
        before_evaluation=merge,
        projection=late.projection if late else None,
        after_step=remined.after_step if remined else None,
    )
    try:
        packed = trained is encoder and packs(context)
        with (
            frozen_layers(trained.model, 0 if trained is not encoder else config.frozen_layers),
            divided_batches(context.ranks, trained.model, packed=packed) as divided,
        ):
            fitted = fit(
                trained,
                loss=MaskedRankingLoss(
                    trained.model,
                    temperature=config.temperature,
                    packed=packed,
                    symmetric=config.symmetric,
                    dimensions=config.dimensions,
                    distillation=config.distillation,
                    late_interaction=late,
                    divided=divided,
                ),
                collator=task_collators(context, config, main_collators(context, config, name, remined), name=name),
                query_ids=training_ids(context),
                config=config,
                steps=steps,
                scheduled=scheduled,
                minutes=minutes and max(minutes - (time.perf_counter() - start) / 60, minutes / 2),
                callbacks=[callback],
                evaluation_cost=dataclasses.replace(
                    sets.evaluation_cost(context, pool) if sets and pool else EvaluationCost(),
                    # A re-mining encodes what an evaluation of the training queries would.
                    remining=DevSet(context.examples).score_seconds(encoder) if remined else 0.0,
                ),
                on_plan=on_plan,
                checkpoints=context.checkpoints_of(name),
                remined=remined,
                batches=task_batches(context, clustered_batches(context)),
                least_epochs=_least_epochs(name, config, after=[result.name for result in previous]),
                after_backward=divided.collect if divided else lambda: None,
            )
        selection: Selection | None = None
        shipped, dev_mrr = callback.best_weights or base_weights, 0.0
        if late:
            late.interpolate(base_projection, callback.best_projection, 1.0)
        if sets and callback.best_weights and callback.best_scores:
            context.on_phase(f"{name}: evaluating")
            selection = select_weights(
                encoder,
                base=base_weights,
                tuned=callback.best_weights,
                base_scores=sets.base_scores,
                dev=sets.dev,
                alphas=config.interpolation,
                pool=sets.pool,
                known=sets.known(callback.best_scores),
                retention=retention,
                largest=context.largest_alpha,
                on_load=lambda alpha: (
                    late.interpolate(base_projection, callback.best_projection, alpha) if late else None
                ),
            )
            if selection.scores and config.mode != "towers":
                # Nothing else needs the vectors of the whole corpus.
                scores = dataclasses.replace(selection.scores, documents=None)
                selection = dataclasses.replace(selection, scores=scores)
            shipped = copy_weights(encoder)
            dev_mrr = float(context.base_scores.mrr.mean()) + selection.difference.mean
    finally:
        model.load_state_dict(base_weights)

    def build(base: SentenceTransformer) -> SentenceTransformer:
        base.load_state_dict(shipped)
        return base

    return ModeResult(
        name=name,
        selection=selection,
        dev_mrr=dev_mrr,
        steps=fitted.steps,
        scheduled=fitted.scheduled,
        epochs=fitted.epochs,
        seconds=time.perf_counter() - start,
        history=callback.history,
        build=build,
        weights=shipped,
        token_projection=late.matrix() if late else None,
        preferred=is_preferred(selection, previous, dev),
        remined=tuple(remined.record) if remined else (),
    )


def _least_epochs(name: ModeName, config: TrainingConfig, *, after: Sequence[str]) -> float:
    """Return how many epochs have to fit: after `in_batch`, fewer than half with mined negatives do not pay."""
    return config.epochs / 2 if name == "full" and "in_batch" in after else 0.0


def estimate_full(
    config: TrainingConfig,
    sizes: TrainingSizes,
    speed: Speed,
    *,
    seconds: float | None,
    after: Sequence[str],
    name: ModeName = "full",
) -> ModeEstimate:
    """Return what `train_full` will do, and how long it takes."""
    config = config_of(name, config, judged=sizes.judged_queries > 0)
    with_negatives = sizes.judged_queries / max(1, sizes.train_queries) if name == "in_batch" else 1.0
    batch = min(sizes.memories, config.batch_size * (1 + with_negatives * config.hard_negatives))
    main = max(1, -(-sizes.train_queries // config.batch_size))
    epoch = (sizes.train + main * batch * sizes.corpus / sizes.memories) * speed.train
    further, seconds_of_tasks = _further_batches(config, sizes, speed, name=name, main=main)
    batches, epoch = main + further, epoch + seconds_of_tasks
    pool = min(1.0, POOL_QUERIES * POOL_DEPTH / sizes.memories) * sizes.corpus + sizes.dev
    evaluation, decision = pool * speed.embed, (sizes.corpus + sizes.dev) * speed.embed
    interpolations = expected_interpolations(config.interpolation, all_of_them=config.retention is not None)
    plan = StepPlan.within(
        seconds,
        steps=config.epochs * batches,
        step_seconds=epoch / batches,
        evaluate_every=batches,
        evaluation_cost=EvaluationCost(
            each=evaluation,
            after=interpolations * evaluation + decision,
            remining=(sizes.corpus + sizes.train) * speed.embed,
        ),
        remine=config.remine,
    )
    if plan.steps == 1 < config.epochs * batches:
        return ModeEstimate("not started: the budget allows only one step", 0.0)
    least = _least_epochs(name, config, after=after)
    if plan.steps < least * batches:
        return ModeEstimate(f"not started: the budget allows less than {least:g} epochs", 0.0)
    steps = f"{batches} steps ({further} of further tasks)" if further else f"{batches} steps"
    description = f"up to {config.epochs} epochs of {steps}, queries and documents"
    if config.remine:
        times = "once" if plan.remine == 1 else f"{plan.remine} times" if plan.remine else "not, for lack of time"
        description += f"; negatives mined again: {times}"
    return ModeEstimate(description, plan.seconds)


def _further_batches(
    config: TrainingConfig, sizes: TrainingSizes, speed: Speed, *, name: ModeName, main: int
) -> tuple[int, float]:
    """Return how many batches of further tasks an epoch has, and their seconds."""
    if not sizes.tasks:
        return 0, 0.0
    queries = [max(1, sizes.train_queries), *(task.queries for task in sizes.tasks)]
    counts = batches_per_epoch(queries, main, config.task_temperature)[1:]
    characters = 0.0
    for task, count in zip(sizes.tasks, counts, strict=True):
        # A pass of the task has all of its queries, the last batch may be a part.
        each = task.queries / -(-task.queries // config.batch_size)
        with_negatives = (task.judged_queries if name == "in_batch" else task.with_negatives) / task.queries
        documents = min(task.memories, each * (1 + with_negatives * config.hard_negatives))
        per_query, per_document = task.query_characters / task.queries, task.corpus_characters / task.memories
        characters += count * (each * per_query + documents * per_document)
    return sum(counts), characters * speed.train


MODE = Mode(name="full", keeps_index=False, needs_dev=False, train=train_full, estimate=estimate_full, budget_share=0.9)
