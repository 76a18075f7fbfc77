"""Divide training data into train and dev examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.errors import DatasetError


def divide_examples(
    data: TrainingData, *, train_split: float, seed: int
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """Return the train and the dev examples; test examples are in neither.

    Negatives of train examples that are positives of dev or test queries, or have the same text, are left out.
    """
    usable = [example for example in data.examples if example.split != "test"]
    dev = [example for example in usable if example.split == "dev"]
    if not dev and data.split is None:
        try:
            dev_ids = _dev_by_component(data, usable, train_split=train_split, seed=seed)
        except DatasetError:
            # Marked training examples can be used even if no dev queries can be set aside.
            if not any(example.split == "train" for example in usable):
                raise
            dev_ids = set()
        dev = [example for example in usable if example.query_id in dev_ids]
    held = {example.query_id for example in dev}
    train = [example for example in usable if example.query_id not in held]
    text = {identifier: normalise(memory) for identifier, memory in data.memories.items()}
    kept_back = [*dev, *(example for example in data.examples if example.split == "test")]
    answers = {text[identifier] for example in kept_back for identifier in example.positive_ids}
    return [_without(example, answers, text) for example in train], dev


def _without(example: TrainingExample, answers: set[str], text: Mapping[str, str]) -> TrainingExample:
    negatives = tuple(negative for negative in example.negatives if text[negative.memory_id] not in answers)
    return dataclasses.replace(example, negatives=negatives)


def _dev_by_component(
    data: TrainingData, examples: list[TrainingExample], *, train_split: float, seed: int
) -> set[str]:
    from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
    from llama_index_ace_finetune.datasets.splits.split import split_dataset
    from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset

    dataset = RetrievalDataset(
        name="training data",
        memories={identifier: Memory(identifier, text) for identifier, text in data.memories.items()},
        queries={example.query_id: Query(example.query_id, normalise(example.query)) for example in examples},
        judgements={example.query_id: dict.fromkeys(example.positive_ids, 1.0) for example in examples},
    )
    settings = SplitSettings(train=train_split, dev=1 - train_split, test=0.0, seed=seed, known=0.0)
    return set(split_dataset(dataset, settings=settings).dev)
