"""The queries of a split as examples, and the dev queries that a training selects on, before it is prepared."""

from __future__ import annotations

from typing import Literal

from llama_index_ace_finetune.datasets.splits.leakage import require_held_out
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.divide_examples import divide_examples
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet


def examples_of_split(
    dataset: RetrievalDataset, split: Split, part: Literal["train", "dev", "test"]
) -> tuple[TrainingExample, ...]:
    """Return the queries of a part of a split with their positives, without negatives."""
    return tuple(
        TrainingExample(
            query_id=query_id,
            query=dataset.queries[query_id].text,
            positive_ids=tuple(sorted(dataset.relevant(query_id))),
            own_id=dataset.own_answer(query_id),
            split=part,
        )
        for query_id in split.part(part)
    )


def dev_of_split(dataset: RetrievalDataset, split: Split | None) -> DevSet | None:
    """Return the dev queries of a split over all memories; None if there are none."""
    dev = examples_of_split(dataset, split, "dev") if split else ()
    memories = {identifier: memory.text for identifier, memory in dataset.answers.items()}
    return DevSet(index_examples(TrainingData(dev, memories), dev)) if dev else None


def dev_of_training_data(data: TrainingData, config: TrainingConfig) -> DevSet | None:
    """Return the dev queries that a training on these data selects on; None if there are none."""
    require_held_out(data)
    _, dev = divide_examples(data, train_split=config.train_split, seed=config.seed)
    return DevSet(index_examples(data, dev)) if dev else None
