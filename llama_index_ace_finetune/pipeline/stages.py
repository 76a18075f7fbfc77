"""Which stages of a run have to be done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.fingerprint import fingerprint_folder
from llama_index_ace_finetune.errors import OutputExistsError
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.utils.new_folder import require_replaceable

STAGE_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "mine": ("split.json", "training_data.json", "mining"),
    "train": ("model",),
    "evaluate": ("report.json", "report.html", "report.per_query.jsonl"),
    "index": ("index",),
}
"""What each stage leaves in a run folder."""

RUN: Final = "run"
_MODELS: Final = frozenset({"base_model", "teacher"})


def stage_keys(settings: RunSettings, dataset: RetrievalDataset) -> dict[str, str]:
    """Return for each stage a digest of all that its result depends on: data, models, settings, package version.

    The device is no part of it, nor is the name of the run folder.
    """
    values = settings.to_dict()
    training = by_content({name: value for name, value in values["training"].items() if name != "device"})
    values["mining"] = by_content(values["mining"])
    chosen = {name: values[name] for name in ("num_negatives", "min_difficulty", "skip_categories", "split", "mining")}
    mine = _digest([__version__, _content(dataset), chosen, training["base_model"], training["precision"]])
    general = [_content(read_dataset(Path(training["retention"])))] if training["retention"] else []
    train = _digest([mine, training, *general])
    # Evaluation and index follow from data and model, and have no settings of their own.
    return {"mine": mine, "train": train, "evaluate": train, "index": train}


def by_content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with what lies in the folders of their models in place of the folders' names.

    A model that was trained again lies under the same name. Hub names stay.
    """
    return {name: _model_content(value) if name in _MODELS and value else value for name, value in settings.items()}


def _model_content(name: str) -> str:
    folder = Path(name).expanduser()
    return fingerprint_folder(folder, {}) if folder.is_dir() else name


def _content(dataset: RetrievalDataset) -> dict[str, Any]:
    return {
        "memories": {identifier: [memory.text, memory.metadata] for identifier, memory in dataset.memories.items()},
        "queries": {identifier: [query.text, query.metadata] for identifier, query in dataset.queries.items()},
        "judgements": {identifier: dict(grades) for identifier, grades in dataset.judgements.items()},
    }


def kept_stages(settings: RunSettings, keys: Mapping[str, str]) -> set[str]:
    """Return the stages that the run folder holds already, made of the same inputs.

    Raises:
        OutputExistsError: if it holds something else than a run; or a run of other inputs, and neither `resume` nor
            `force` is on.
    """
    run = RunFolder(settings.out)
    if not run.manifest.is_file():
        RunFolder.create(settings.out)
        require_replaceable(settings.out, kind=RUN)
        return set()
    if settings.force:
        require_replaceable(settings.out, kind=RUN)
        return set()
    recorded = run.read_manifest().get("stages") or {}
    same = {
        stage
        for stage, files in STAGE_FILES.items()
        if recorded.get(stage) == keys[stage] and all((run.path / name).exists() for name in files)
    }
    if "train" not in same:
        # Two trainings within one time budget differ, and these belong to the model that is gone.
        same -= {"evaluate", "index"}
    if same == set(keys):
        return same
    if settings.resume:
        require_replaceable(settings.out, kind=RUN)
        return same
    raise OutputExistsError(
        f"The output folder {str(settings.out)!r} already holds a run, of other data or settings; give another folder, "
        "do again what has changed with --resume, or replace it with --force."
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
