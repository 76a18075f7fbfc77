"""The stages of a run in their order, and which of them have to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import OutputExistsError
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages import evaluate, folds, index, mine, train
from llama_index_ace_finetune.pipeline.stages.stage import Stage
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.utils.new_folder import require_replaceable

STAGES: Final[tuple[Stage, ...]] = (
    mine.STAGE,
    train.STAGE,
    evaluate.STAGE,
    folds.STAGE,
    index.STAGE,
)
"""All stages, in the order in which they run."""

RUN: Final = "run"


def stages_of(settings: RunSettings) -> tuple[Stage, ...]:
    """Return the stages that a run with these settings has."""
    return tuple(stage for stage in STAGES if stage.used(settings))


def stage_keys(settings: RunSettings, dataset: RetrievalDataset) -> dict[str, str]:
    """Return for each stage a digest of all that its result depends on: data, models, settings, package version."""
    keys: dict[str, str] = {}
    for stage in stages_of(settings):
        keys[stage.name] = stage.key(settings.of_a_fold(), dataset, keys)
    return keys


def kept_stages(settings: RunSettings, keys: Mapping[str, str]) -> set[str]:
    """Return the stages whose outputs the run folder holds already, made from the same inputs.

    Raises:
        OutputExistsError: if the folder holds something else than a run; or a run of other inputs, and neither `resume`
            nor `force` is on.
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
    same: set[str] = set()
    for stage in stages_of(settings):
        unchanged = recorded.get(stage.name) == keys[stage.name] and same.issuperset(keys.keys() & set(stage.after))
        if unchanged and all(path.exists() for path in stage.outputs(run)):
            same.add(stage.name)
    if same == set(keys):
        return same
    if settings.resume:
        require_replaceable(settings.out, kind=RUN)
        return same
    raise OutputExistsError(
        f"The output folder {str(settings.out)!r} already holds a run, of other data or settings; give another folder, "
        "do again what has changed with --resume, or replace it with --force."
    )
