"""Audit a run or a split against its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llama_index_ace_finetune.datasets.splits.audit import Audit, Overlap, audit_model, audit_split
from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.provenance import read_provenance
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
        path: a run folder, whose training negatives and models are audited too, or a `split.json`.
        data: the dataset, or its file or folder; by default the one of the run.
        memories: further memories; likewise.
        columns: names of the columns of a table; likewise.

    Raises:
        DatasetError: if `path` is a `split.json` and no data is given.
        AceFinetuneError: if something cannot be read.
    """
    examples, synthetic, path = None, None, Path(path)
    models: tuple[Overlap, ...] = ()
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
        models = _models(run, split)
    else:
        split = Split.load(path)
    if data is None:
        raise DatasetError(f"An audit of {str(path)!r} needs the data it divides; give it with --data.")
    dataset = read_dataset(data, memories, columns=columns)
    if synthetic is not None:
        dataset = with_queries(dataset, read_dataset(synthetic))
    found = audit_split(dataset, split, examples)
    return replace(found, overlaps=(*found.overlaps, *models))


def _models(run: RunFolder, split: Split) -> tuple[Overlap, ...]:
    """Return which held-out queries the run's model was trained on, and the weights that it measured before a refit."""
    record, selected = read_provenance(run.model), read_provenance(run.selected)
    refit = shipped_refit(record)
    allowed = () if refit is None else ("dev", "test") if refit["on"] == "all" else ("dev",)
    found = audit_model(split, record, allowed=allowed) if record else ()
    return (*found, *audit_model(split, selected, name="selected model")) if selected else found
