"""The retrieval sets that benchmarks run on."""

from __future__ import annotations

from pathlib import Path

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet


def load(folder: Path, name: str) -> RetrievalDataset:
    path = folder / name
    suite = path / "enhanced_test_suite.json"
    return read_dataset(suite, path / "memory_inventory.json") if suite.is_file() else read_dataset(path)


def test_set(dataset: RetrievalDataset, queries: list[str]) -> DevSet:
    examples = tuple(
        TrainingExample(q, dataset.queries[q].text, tuple(sorted(dataset.relevant(q))), (), "test", {}) for q in queries
    )
    memories = {identifier: memory.text for identifier, memory in dataset.answers.items()}
    return DevSet(index_examples(TrainingData(examples=examples, memories=memories), examples))
