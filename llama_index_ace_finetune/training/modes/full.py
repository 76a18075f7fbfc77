"""The third rung: minutes, and the memories are indexed anew."""

from __future__ import annotations

import time
from collections.abc import Callable

from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.mining.teacher import load_teacher
from llama_index_ace_finetune.training.context import Ground
from llama_index_ace_finetune.training.data.batches import BatchCollator
from llama_index_ace_finetune.training.data.false_negatives import Guide
from llama_index_ace_finetune.training.data.teacher_scores import teacher_scores
from llama_index_ace_finetune.training.data.token_cache import TokensOnce
from llama_index_ace_finetune.training.loop.callback import StepProgress, TrainingWatcher
from llama_index_ace_finetune.training.loop.evaluation_cost import measure_looks
from llama_index_ace_finetune.training.loop.fit import OnPlan, fit
from llama_index_ace_finetune.training.losses.masked_ranking import MaskedRankingLoss
from llama_index_ace_finetune.training.model_selection.interpolation import Selection, copy_weights, select_weights
from llama_index_ace_finetune.training.modes.lora import merged_weights, with_adapters
from llama_index_ace_finetune.training.modes.result import Rung


def climb_full(
    ground: Ground,
    *,
    minutes: float | None,
    progress: StepProgress | None = None,
    on_plan: OnPlan | None = None,
) -> Rung:
    """Train both sides, and choose on dev between the base, the tuned weights and mixtures of the two.

    Args:
        ground: without dev queries nothing can be chosen, and the last weights ship unchecked.
        minutes: of training and looks at dev, at most; None trains all epochs.
        progress: called after each step.
        on_plan: called with the planned steps before the first.
    """
    start = time.perf_counter()
    encoder, config, dev = ground.encoder, ground.config, ground.dev
    model, base_weights, retention = encoder.model, copy_weights(encoder), ground.retention
    pool = pool_scores = looks = None
    if dev:
        pool, queries, documents = dev.pooled(ground.base_scores.rankings, seed=config.seed)
        pool_scores = pool.rank(ground.dev_query_vectors[queries], ground.document_vectors[documents])
        looks = measure_looks(encoder, pool=pool, dev=dev, shares=config.interpolation, retention=retention)
    trained = encoder
    if config.lora_rank is not None:
        adapted = with_adapters(model, config)
        trained = Encoder(adapted, name=encoder.name, fingerprint=encoder.fingerprint, settings=encoder.settings)
    watcher = TrainingWatcher(
        encoder,
        pool,
        base_scores=pool_scores,
        eval_steps=config.eval_steps,
        patience=config.patience,
        progress=progress,
        # Dev looks at ordinary weights, and ordinary weights ship.
        before_look=lambda: model.load_state_dict(merged_weights(trained.model)) if trained is not encoder else None,
    )
    try:
        steps, epochs = fit(
            trained,
            loss=MaskedRankingLoss(
                trained.model,
                temperature=config.temperature,
                packed=trained is encoder and _packs(ground),
                symmetric=config.symmetric,
                dimensions=config.dimensions,
                distillation=config.distillation,
            ),
            collator=_collators(ground),
            query_ids=ground.examples.query_ids,
            config=config,
            minutes=minutes and max(minutes - (time.perf_counter() - start) / 60, minutes / 2),
            watchers=[watcher],
            looks=looks,
            on_plan=on_plan,
            checkpoints=ground.checkpoints_of("full"),
        )
        selection: Selection | None = None
        shipped, dev_mrr = watcher.best_weights or base_weights, 0.0
        if dev and pool_scores and watcher.best_weights and watcher.best_scores:
            selection = select_weights(
                encoder,
                base=base_weights,
                tuned=watcher.best_weights,
                base_scores=ground.base_scores,
                dev=dev,
                shares=config.interpolation,
                pool=pool,
                known={0.0: pool_scores, 1.0: watcher.best_scores},
                retention=retention,
            )
            shipped = copy_weights(encoder)
            dev_mrr = float(ground.base_scores.mrr.mean()) + (selection.difference.mean if selection.ships_tuned else 0)
    finally:
        model.load_state_dict(base_weights)

    def build(base: SentenceTransformer) -> SentenceTransformer:
        base.load_state_dict(shipped)
        return base

    return Rung(
        name="full",
        selection=selection,
        dev_mrr=dev_mrr,
        steps=steps,
        epochs=epochs,
        seconds=time.perf_counter() - start,
        history=watcher.history,
        build=build,
    )


def _packs(ground: Ground) -> bool:
    examples, encoder = ground.examples, ground.encoder
    return encoder.packs(examples.queries, "query") and encoder.packs(examples.corpus, "document")


def _collators(ground: Ground) -> Callable[[], BatchCollator]:
    """What makes fresh collators over the training queries, with a guide and a teacher where they are asked for."""
    config, examples, model = ground.config, ground.examples, ground.encoder.model
    teacher = guide = None
    if config.teacher:
        teacher = teacher_scores(load_teacher(config.teacher, device=config.device), examples, cache=ground.cache)
    if config.suspected_margin is not None:
        guide = Guide(ground.query_vectors, ground.document_vectors, examples.relevant, config.suspected_margin)
    tokens = TokensOnce(model, max_tokens=config.max_seq_length)
    return lambda: BatchCollator(
        preprocess=tokens,
        examples=examples,
        hard_negatives=config.hard_negatives,
        query_prompt=model.prompts.get("query") or "",
        document_prompt=model.prompts.get("document") or "",
        guide=guide,
        teacher=teacher,
    )
