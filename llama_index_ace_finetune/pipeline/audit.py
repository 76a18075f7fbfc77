"""Audit a run or a split against its data."""

from __future__ import annotations

from pathlib import Path

from llama_index_ace_finetune.datasets.splits.audit import Audit, audit_split
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.pipeline.synthetic_queries import with_queries
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.stores.read_dataset import Data, Memories, read_dataset


def audit(
    path: str | Path,
    data: Data | None = None,
    memories: Memories | None = None,
    *,
    columns: str | None = None,
) -> Audit:
    """Count what train, dev and test have in common; `Audit.passed` says whether every forbidden overlap is zero.

    Args:
        path: a run folder, whose training negatives are audited too, or a `split.json`.
        data: the dataset, or its file or folder; by default the one of the run.
        memories: further memories; likewise.
        columns: names of the columns of a table; likewise.

    Raises:
        DatasetError: if `path` is a `split.json` and no data is given.
        AceFinetuneError: if something cannot be read.
    """
    examples, synthetic, path = None, None, Path(path)
    if path.is_dir():
        run = RunFolder.open(path)
        manifest = run.read_manifest()
        if data is None:
            columns = columns or manifest.get("columns")
            memories = memories or manifest.get("memories")
            data = manifest.get("data")
            if data is None and run.synthetic.is_file():  # a run of memories only
                data, memories = manifest.get("memories"), None
        split = Split.load(run.split)
        examples = TrainingData.load(run.training_data).examples_of("train")
        synthetic = run.synthetic if run.synthetic.is_file() else None
    else:
        split = Split.load(path)
    if data is None:
        raise DatasetError(f"An audit of {str(path)!r} needs the data it divides; give it with --data.")
    dataset = read_dataset(data, memories, columns=columns)
    if synthetic is not None:
        dataset = with_queries(dataset, read_dataset(synthetic))
    return audit_split(dataset, split, examples)
