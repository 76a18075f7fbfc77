"""Print what a dataset holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.statistics import inspect_dataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.console import show


def print_statistics(data: Path, memories: Path | None, columns: str | None = None) -> None:
    """Read a dataset and print its statistics, and why a run would refuse it, if it would."""
    dataset = read_dataset(data, memories, columns=columns)
    statistics = inspect_dataset(dataset)
    try:
        split_dataset(dataset)
        refusal = ""
    except DatasetError as error:
        refusal = str(error)

    def human(screen: Console) -> None:
        screen.print("\n".join(statistics.lines()), markup=False)
        if refusal:
            screen.print(f"run               would refuse these data: {refusal}", markup=False)

    show({**asdict(statistics), "run_would_refuse": refusal or None}, human)
