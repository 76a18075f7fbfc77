"""Print what a dataset holds."""

from __future__ import annotations

from pathlib import Path

from llama_index_ace_finetune.commands.console import show
from llama_index_ace_finetune.datasets.inspect_dataset import inspect_dataset
from llama_index_ace_finetune.datasets.read_dataset import read_dataset


def print_statistics(data: Path, memories: Path | None) -> None:
    """Read a dataset and print its statistics."""
    statistics = inspect_dataset(read_dataset(data, memories))
    show(statistics, lambda screen: screen.print("\n".join(statistics.lines()), markup=False))
