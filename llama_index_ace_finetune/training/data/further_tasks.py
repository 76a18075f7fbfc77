"""Further datasets of a training, each as a task of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.held_out import HeldOut
from llama_index_ace_finetune.datasets.splits.leakage import require_held_out
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample, is_training_data
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.training.data.divide_examples import divide_examples
from llama_index_ace_finetune.training.data.examples import IndexedExamples, index_examples
from llama_index_ace_finetune.training.data.task import MAX_DEV_QUERIES, TrainingTask

logger = logging.getLogger(__name__)

_FEWEST = 2
_DEV_MEMORIES = 2000


def read_further(path: str | Path) -> TrainingData:
    """Read a further dataset: a file that `generate` wrote, with its split, or data of any format, without one.

    Raises:
        DatasetError: if it cannot be read, or holds no query with a relevant memory.
        LeakageError: if training data hold what their own split holds out.
    """
    path = Path(path)
    if is_training_data(path):
        data = TrainingData.load(path)
        require_held_out(data)
        return data
    dataset = read_dataset(path)
    examples = tuple(
        TrainingExample(
            query_id=identifier,
            query=query.text,
            positive_ids=tuple(sorted(relevant)),
            own_id=dataset.own_answer(identifier),
        )
        for identifier, query in dataset.queries.items()
        if (relevant := dataset.relevant(identifier))
    )
    return TrainingData(examples, {identifier: memory.text for identifier, memory in dataset.answers.items()})


def further_tasks(
    paths: Sequence[str], held_out: HeldOut, *, train_split: float, seed: int
) -> tuple[TrainingTask, ...]:
    """Return one task per further dataset, without what the main data hold out.

    Dev queries are those that training data mark, or a part that shares no positive with the rest: at most about 200,
    ranked over 2,000 memories at most, since they are reported and decide nothing.

    Args:
        paths: of the datasets.
        held_out: of the main data.
        train_split: fraction of the queries to train on, where dev queries are not marked.
        seed: of the parts.

    Raises:
        DatasetError: if one cannot be read, or has fewer than two queries left to train on.
        LeakageError: see `read_further`.
    """
    tasks: list[TrainingTask] = []
    for path in paths:
        data, left_out = held_out.without(read_further(path))
        name = _name(path, [task.name for task in tasks])
        if left_out.queries or left_out.answers:
            logger.warning("%s: left out of the training are rows that the main data hold out: %s", name, left_out)
        fraction = 1 - min(1 - train_split, MAX_DEV_QUERIES / max(len(data.examples), 1))
        train, dev = _divided(data, name, train_split=fraction, seed=seed)
        if len(train) < _FEWEST:
            raise DatasetError(
                f"The further dataset {str(path)!r} has {len(train)} queries to train on ({left_out} are left out), "
                f"and at least {_FEWEST} are needed; give other data, or leave it out of --also."
            )
        tasks.append(
            TrainingTask(
                name=name,
                examples=index_examples(data, train),
                dev=_dev_of(data, dev, seed=seed) if dev else None,
                left_out={"held_out_query": left_out.queries, "held_out_answer": left_out.answers},
            )
        )
    return tuple(tasks)


def _divided(
    data: TrainingData, name: str, *, train_split: float, seed: int
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    try:
        return divide_examples(data, train_split=train_split, seed=seed)
    except DatasetError as error:
        logger.warning("%s: no dev queries are set aside (%s)", name, error)
        return [example for example in data.examples if example.split not in ("dev", "test")], []


def _dev_of(data: TrainingData, dev: Sequence[TrainingExample], *, seed: int) -> IndexedExamples:
    """Index dev queries over their own memories and some others."""
    random = np.random.default_rng(seed)
    chosen = [replace(dev[row], negatives=()) for row in np.sort(random.permutation(len(dev))[:MAX_DEV_QUERIES])]
    needed = {one for example in chosen for one in (*example.positive_ids, example.own_id) if one is not None}
    ids = list(data.memories)
    others = [ids[row] for row in random.permutation(len(ids)) if ids[row] not in needed]
    kept = needed.union(others[: max(0, _DEV_MEMORIES - len(needed))])
    memories = {identifier: text for identifier, text in data.memories.items() if identifier in kept}
    return index_examples(TrainingData(tuple(chosen), memories), chosen)


def _name(path: str, taken: Sequence[str]) -> str:
    """Return the name of the file or folder; of several with one name, with a number."""
    name = Path(path).name or Path(path).resolve().name
    number = sum(one == name or one.startswith(f"{name} (") for one in taken)
    return f"{name} ({number + 1})" if number else name
