"""The sizes of the further tasks of a training, for its estimate."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.splits.held_out import HeldOut
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.pipeline.dev_queries import examples_of_split
from llama_index_ace_finetune.pipeline.speed import cost
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.derived_tasks import derive_task
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.data.further_tasks import further_tasks
from llama_index_ace_finetune.training.data.task import TrainingTask
from llama_index_ace_finetune.training.modes.mode import TaskSizes


def task_sizes(
    config: TrainingConfig, dataset: RetrievalDataset, split: Split, encoder: Encoder
) -> tuple[TaskSizes, ...]:
    """Return the size of each further task that the training will have, by the same rules.

    Raises:
        DatasetError: if a further dataset cannot be read, or has too few queries left.
        LeakageError: if one holds what its own split holds out.
    """
    if not (config.also or config.tasks):
        return ()
    memories = {identifier: memory.text for identifier, memory in dataset.answers.items()}
    train = examples_of_split(dataset, split, "train")
    dev = examples_of_split(dataset, split, "dev")
    texts = [dataset.queries[i].text for part in split.held_parts if part != "train" for i in split.part(part)]
    data = TrainingData((*train, *dev, *examples_of_split(dataset, split, "test")), memories)
    held_out = HeldOut.of(data, dev, texts)
    examples = index_examples(data, train)
    derived = (
        derive_task(
            name,
            examples,
            metadata={identifier: memory.metadata for identifier, memory in dataset.answers.items()},
            held_out=held_out.holds_answer(examples.corpus),
            dev=1 - config.train_split,
            seed=config.seed,
        )
        for name in dict.fromkeys(config.tasks)
    )
    further = further_tasks(config.also, held_out, train_split=config.train_split, seed=config.seed)
    return tuple(_size(task, encoder) for task in (*further, *derived) if task is not None)


def _size(task: TrainingTask, encoder: Encoder) -> TaskSizes:
    examples = task.examples
    return TaskSizes(
        queries=len(examples.queries),
        query_characters=cost(examples.queries, encoder),
        memories=len(examples.corpus),
        corpus_characters=cost(examples.corpus, encoder),
        with_negatives=sum(map(bool, map(len, examples.negatives))),
        judged_queries=sum(map(bool, map(len, examples.judged))),
    )
