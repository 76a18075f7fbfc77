"""What was read and how it is split, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index_ace_finetune.datasets.splits.manifest import PARTS
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.types import SYNTHETIC, RetrievalDataset


def describe_data(dataset: RetrievalDataset, split: Split) -> list[str]:
    """Return lines: sizes and format of the dataset, its cleaning log, sizes of the split."""
    known = len(split.dev_known) + len(split.test_known)
    synthetic = {name: sum(SYNTHETIC in dataset.queries[i].metadata for i in split.part(name)) for name in PARTS}
    parts = [
        f"{name} {len(split.part(name))}{f' ({count} synthetic)' if count else ''}" for name, count in synthetic.items()
    ]
    return [
        f"{dataset.name}: {len(dataset.memories)} memories ({len(dataset.answers)} distinct), "
        f"{len(dataset.queries)} queries, read as {dataset.ledger.format}",
        *(f"  {line}" for line in dataset.ledger.lines()),
        f"split: {', '.join(parts)} queries" + (f"; {known} about memories of train are held out too" if known else ""),
    ]


def describe_folds(folds: Sequence[Split]) -> list[str]:
    """Return one line with the test queries of each fold; none without folds."""
    sizes = ", ".join(str(len(fold.test)) for fold in folds)
    return [f"{len(folds)} folds: {sizes} test queries"] if folds else []
