"""Batches of the main task and of further tasks, for modes that train all weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch.utils.data import BatchSampler

from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.training.config import ModeName, TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.data.batches import BatchCollator
from llama_index_ace_finetune.training.data.clustered_batches import ClusteredBatches
from llama_index_ace_finetune.training.data.query_weights import query_weights
from llama_index_ace_finetune.training.data.task import TrainingTask
from llama_index_ace_finetune.training.data.task_batches import TaskBatches
from llama_index_ace_finetune.training.data.task_collator import TaskCollator
from llama_index_ace_finetune.training.loop.fit import Collator


def training_ids(context: TrainingContext) -> tuple[str, ...]:
    """Return the query ids of all tasks, in the order of `task_batches`; those of further ones with their task."""
    further = (f"{task.name}: {identifier}" for task in context.tasks for identifier in task.examples.query_ids)
    return (*context.examples.query_ids, *further)


def task_batches(context: TrainingContext, main: BatchSampler | None) -> BatchSampler | None:
    """Return the batches of all tasks; `main` itself where there is one task only."""
    if not context.tasks:
        return main
    first = main if isinstance(main, ClusteredBatches) else _unclustered(context, len(context.examples.queries))
    return TaskBatches(
        [first, *(_batches(context, task) for task in context.tasks)],
        [len(context.examples.queries), *(len(task.examples.queries) for task in context.tasks)],
        temperature=context.config.task_temperature,
        seed=context.config.seed,
    )


def task_collators(
    context: TrainingContext, config: TrainingConfig, main: Callable[[], BatchCollator], *, name: ModeName
) -> Callable[[], Collator]:
    """Return a factory of collators over all tasks; `main` itself where there is one task only.

    In mode `in_batch`, negatives are only those that the data label.
    """
    if not context.tasks:
        return main
    model = context.encoder.model

    def further(task: TrainingTask) -> BatchCollator:
        examples = task.examples
        if name == "in_batch":
            none = tuple(np.empty(0, np.int64) for _ in examples.queries)
            examples = replace(examples, negatives=examples.judged or none)
        return BatchCollator(
            preprocess=context.tokens,
            examples=examples,
            hard_negatives=config.hard_negatives,
            query_prompt=model.prompts.get(task.query_role) or "",
            document_prompt=model.prompts.get(task.document_role) or "",
            weights=query_weights(examples, config.synthetic_weight),
            query_role=task.query_role,
            document_role=task.document_role,
        )

    return lambda: TaskCollator([main(), *map(further, context.tasks)])


def _unclustered(context: TrainingContext, count: int) -> ClusteredBatches:
    return ClusteredBatches(
        np.empty((count, 0), np.float32),
        np.arange(count),
        batch_size=context.config.batch_size,
        cluster_size=1,
        seed=context.config.seed,
    )


def _batches(context: TrainingContext, task: TrainingTask) -> ClusteredBatches:
    """Cluster the queries of a further dataset as those of the main one; neighbours of a derived task are related."""
    config, examples = context.config, task.examples
    if task.derived or config.cluster_size == 1:
        return _unclustered(context, len(examples.queries))
    positives = np.array([int(rows[0]) for rows in examples.relevant])
    queries = context.encoder.encode(examples.queries, role=task.query_role, cache=context.cache)
    documents = context.encoder.encode(
        [examples.corpus[row] for row in positives], role=task.document_role, cache=context.cache
    )
    return ClusteredBatches(
        unit_rows(queries + documents),
        positives,
        batch_size=config.batch_size,
        cluster_size=config.cluster_size,
        seed=config.seed,
    )
