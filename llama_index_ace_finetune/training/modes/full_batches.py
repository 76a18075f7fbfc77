"""What the batches of modes `full` and `in_batch` hold of the main task: queries, negatives, masks, teacher scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from torch.utils.data import BatchSampler

from llama_index_ace_finetune.encoders.teacher import load_teacher
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.training.config import HYBRID_TEACHER, ModeName, TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.data.batches import BatchCollator
from llama_index_ace_finetune.training.data.clustered_batches import ClusteredBatches
from llama_index_ace_finetune.training.data.false_negatives import FalseNegativeMask
from llama_index_ace_finetune.training.data.hybrid_scores import hybrid_scores
from llama_index_ace_finetune.training.data.query_weights import query_weights
from llama_index_ace_finetune.training.data.remined_negatives import ReminedNegatives, first_documents
from llama_index_ace_finetune.training.data.teacher_scores import teacher_scores


def config_of(name: ModeName, config: TrainingConfig, *, judged: bool) -> TrainingConfig:
    """Return the settings of a mode: "in_batch" has no mined negatives, only those that the data label irrelevant."""
    if name != "in_batch":
        return config
    return dataclasses.replace(config, hard_negatives=config.hard_negatives if judged else 0, remine=0)


def remined_negatives(
    context: TrainingContext, config: TrainingConfig, name: ModeName, *, before: Callable[[], object] | None
) -> ReminedNegatives | None:
    """Return what mines the negatives again during the training; None if the settings do not ask for it.

    `before` is called before each mining.
    """
    if not config.remine:
        return None
    examples = context.examples
    return ReminedNegatives(
        context.encoder,
        examples,
        first=first_documents(context.query_vectors, context.document_vectors, examples),
        settings=context.mining,
        count=max(config.hard_negatives, *map(len, examples.negatives)),
        before=before,
        on_phase=lambda begins: context.on_phase(f"{name}: mining" if begins else name),
    )


def clustered_batches(context: TrainingContext) -> BatchSampler | None:
    """Return batches of queries about related memories; None if the settings do not cluster."""
    config, examples = context.config, context.examples
    if config.cluster_size == 1:
        return None
    positives = np.array([int(rows[0]) for rows in examples.relevant])
    return ClusteredBatches(
        unit_rows(context.query_vectors + context.document_vectors[positives]),
        positives,
        batch_size=config.batch_size,
        cluster_size=config.cluster_size,
        seed=config.seed,
    )


def packs(context: TrainingContext) -> bool:
    """Whether the texts of the training use the fast forward pass; see `Encoder.packs`."""
    examples, encoder = context.examples, context.encoder
    return encoder.packs(examples.queries, "query") and encoder.packs(examples.corpus, "document")


def main_collators(
    context: TrainingContext, config: TrainingConfig, name: ModeName, remined: ReminedNegatives | None
) -> Callable[[], BatchCollator]:
    """Return a factory of collators over the training queries, with false-negative mask and teacher if configured."""
    examples, model = context.examples, context.encoder.model
    if name == "in_batch" and examples.judged:
        examples = dataclasses.replace(examples, negatives=examples.judged)
    teacher = false_negatives = None
    if config.teacher:
        teacher = _teacher_scores(context, config.teacher)
    if config.suspected_margin is not None:
        false_negatives = FalseNegativeMask(
            context.query_vectors, context.document_vectors, examples.relevant, config.suspected_margin
        )
    return lambda: BatchCollator(
        preprocess=context.tokens,
        examples=examples,
        hard_negatives=config.hard_negatives,
        query_prompt=model.prompts.get("query") or "",
        document_prompt=model.prompts.get("document") or "",
        false_negatives=false_negatives,
        teacher=teacher,
        weights=query_weights(examples, config.synthetic_weight),
        remined=remined,
    )


def _teacher_scores(context: TrainingContext, name: str) -> list[Mapping[int, float]]:
    if name == HYBRID_TEACHER:
        return hybrid_scores(context.examples, context.query_vectors, context.document_vectors)
    teacher = load_teacher(name, device=context.config.device)
    return teacher_scores(teacher, context.examples, name=name, cache=context.cache)
