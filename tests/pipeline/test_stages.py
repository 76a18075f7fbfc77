"""Which stages have to run again, after which change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from llama_index_ace_finetune.datasets.types import Memory, RetrievalDataset
from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages.register import RUN, kept_stages, stage_keys, stages_of
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.ownership import write_mark


def settings(out: Path = Path("out"), **changes: Any) -> RunSettings:
    return dataclasses.replace(RunSettings(data=Path("data"), out=out), **changes)


ALL = {stage.name for stage in stages_of(settings())}


def changed(dataset: RetrievalDataset, **changes: Any) -> set[str]:
    before, after = stage_keys(settings(), dataset), stage_keys(settings(**changes), dataset)
    return {stage for stage in before if before[stage] != after[stage]}


def test_stages_that_each_change_reaches(small_dataset: RetrievalDataset) -> None:
    assert changed(small_dataset) == set()
    assert changed(small_dataset, out=Path("other"), data=Path("moved"), command="typed") == set()
    assert changed(small_dataset, training=TrainingConfig(device="cpu", output_dir="x")) == set()
    assert changed(small_dataset, training=TrainingConfig(epochs=1)) == ALL - {"mine"}
    assert changed(small_dataset, training=TrainingConfig(base_model="other")) == ALL
    assert changed(small_dataset, sparse_encoder="some/splade") == {"evaluate", "index"}
    assert changed(small_dataset, num_negatives=6) == ALL
    assert changed(small_dataset, skip_categories=frozenset({"x"})) == ALL


def test_content_of_a_model_folder_is_part_of_the_key(small_dataset: RetrievalDataset, tmp_path: Path) -> None:
    """One that was trained again has the same name."""
    for name in ("base", "moved"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"old")

    def keys(name: str, **training: Any) -> dict[str, str]:
        return stage_keys(settings(training=TrainingConfig(base_model=str(tmp_path / name), **training)), small_dataset)

    before, taught = keys("base"), keys("base", teacher=str(tmp_path / "moved"))
    assert keys("moved") == before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"new")
    after = keys("base", teacher=str(tmp_path / "moved"))
    assert {stage for stage in ALL if taught[stage] != after[stage]} == ALL - {"mine"}
    (tmp_path / "base" / "model.safetensors").write_bytes(b"new")
    assert all(keys("base")[stage] != before[stage] for stage in ALL)


def test_content_of_the_data_is_part_of_the_key(small_dataset: RetrievalDataset) -> None:
    first = next(iter(small_dataset.memories))
    other = dataclasses.replace(
        small_dataset, memories={**small_dataset.memories, first: Memory(first, "another text", {})}
    )
    before, after = stage_keys(settings(), small_dataset), stage_keys(settings(), other)
    assert all(before[stage] != after[stage] for stage in ALL)


@pytest.fixture
def made(tmp_path: Path, small_dataset: RetrievalDataset) -> RunSettings:
    """A folder that looks like a finished run."""
    run = tmp_path / "run"
    for output in (output for stage in stages_of(settings()) for output in stage.outputs(RunFolder(run))):
        output.mkdir(parents=True)
    write_json(run / "manifest.json", {"stages": stage_keys(settings(), small_dataset)})
    write_mark(run, kind=RUN, name="run")
    return settings(run)


def kept(one: RunSettings, dataset: RetrievalDataset) -> set[str]:
    return kept_stages(one, stage_keys(one, dataset))


def test_an_unchanged_run_is_kept_unless_forced(made: RunSettings, small_dataset: RetrievalDataset) -> None:
    assert kept(made, small_dataset) == ALL
    assert kept(dataclasses.replace(made, force=True), small_dataset) == set()


def test_changed_run_needs_resume_or_force(made: RunSettings, small_dataset: RetrievalDataset) -> None:
    other = dataclasses.replace(made, training=TrainingConfig(epochs=1))
    with pytest.raises(OutputExistsError, match="already holds a run, of other data or settings"):
        kept(other, small_dataset)
    assert kept(dataclasses.replace(other, resume=True), small_dataset) == {"mine"}
    assert kept(dataclasses.replace(other, force=True), small_dataset) == set()


def test_deleted_output_is_made_again(made: RunSettings, small_dataset: RetrievalDataset) -> None:
    (made.out / "report.html").rmdir()
    # What serves depends on the report, and the index on what serves.
    assert kept(dataclasses.replace(made, resume=True), small_dataset) == ALL - {"evaluate", "index"}


def test_deleted_model_invalidates_report_and_index(made: RunSettings, small_dataset: RetrievalDataset) -> None:
    (made.out / "model").rmdir()
    assert kept(dataclasses.replace(made, resume=True), small_dataset) == {"mine"}


def test_foreign_folder_is_never_replaced(tmp_path: Path, small_dataset: RetrievalDataset) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="other files"):
        kept(settings(tmp_path, force=True), small_dataset)


def test_run_of_an_earlier_version_is_not_unchanged(made: RunSettings, small_dataset: RetrievalDataset) -> None:
    write_json(made.out / "manifest.json", {"format_version": 1})
    with pytest.raises(OutputExistsError):
        kept(made, small_dataset)


def test_limits_of_the_served_system_invalidate_report_and_index(
    made: RunSettings, small_dataset: RetrievalDataset
) -> None:
    assert kept(dataclasses.replace(made, query_ms=5.0, resume=True), small_dataset) == ALL - {"evaluate", "index"}
    with pytest.raises(AceFinetuneError, match="The limit bytes-per-memory is 0"):
        dataclasses.replace(made, bytes_per_memory=0)
