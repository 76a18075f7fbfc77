"""What a dataset holds, and whether a run would accept it."""

from __future__ import annotations

from dataclasses import dataclass

from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.statistics import DatasetStatistics, inspect_dataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.stores.read_dataset import Data, Memories, read_dataset


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """Statistics of a dataset, and why a run would reject it; None if it would accept it."""

    statistics: DatasetStatistics
    rejection: str | None


def inspect(data: Data, memories: Memories | None = None, *, columns: str | None = None) -> Inspection:
    """Return the statistics of a dataset: sizes, duplicates, ambiguity, what BM25 finds.

    Args:
        data: a dataset, or a file or folder in any format that `read_dataset` takes.
        memories: further memories: a path, the address of a Qdrant collection, memories or LlamaIndex nodes.
        columns: names of the columns of a table, as `read_dataset` takes them.

    Raises:
        DatasetError: if the data cannot be read.
    """
    dataset = read_dataset(data, memories, columns=columns)
    statistics = inspect_dataset(dataset)
    try:
        split_dataset(dataset)
        rejection = None
    except DatasetError as error:
        rejection = str(error)
    return Inspection(statistics=statistics, rejection=rejection)
