"""Audit a run or a split against its data."""

from __future__ import annotations

from pathlib import Path

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.audit import audit_split
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.utils.console import REFUSED, show


def print_audit(path: Path, data: Path | None, memories: Path | None, columns: str | None = None) -> int:
    """Print the overlap counts; return 0 where none is forbidden, else 1.

    Args:
        path: a run folder, whose training negatives are audited too, or a `split.json`.
        data: the dataset; by default the one that the run was made of.
        memories: likewise.
        columns: likewise.
    """
    examples = None
    if path.is_dir():
        run = RunFolder.open(path)
        manifest = run.read_manifest()
        columns = columns or (None if data else manifest.get("columns"))
        data = data or Path(manifest["data"])
        memories = memories or (Path(manifest["memories"]) if manifest.get("memories") else None)
        split = Split.load(run.split)
        examples = TrainingData.load(run.training_data).examples_of("train")
    else:
        split = Split.load(path)
    if data is None:
        raise DatasetError(f"An audit of {str(path)!r} needs the data it divides; give it with --data.")
    audit = audit_split(read_dataset(data, memories, columns=columns), split, examples)
    show(
        {"name": audit.name, "passed": audit.passed, "overlaps": audit.overlaps},
        lambda screen: screen.print("\n".join(audit.lines()), markup=False),
    )
    return 0 if audit.passed else REFUSED
