"""Further datasets and tasks in a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import llama_index_ace_finetune as ace
from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages.register import stage_keys
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.task_batches import batches_per_epoch


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text(
        "".join(json.dumps({"query": query, "positive": text}) + "\n" for query, text in rows), encoding="utf-8"
    )
    return path


def test_training_is_repeated_only_if_the_content_of_a_further_dataset_changed(
    small_dataset: RetrievalDataset, tmp_path: Path
) -> None:
    rows = [("who replaces the belt?", "The belt is serviced."), ("where is the pump?", "The pump is outside.")]
    also = write(tmp_path / "also.jsonl", rows)

    def keys(path: Path) -> dict[str, str]:
        training = TrainingConfig(also=(str(path),))
        return stage_keys(RunSettings(data=small_dataset, out=tmp_path / "run", training=training), small_dataset)

    before = keys(also)
    assert keys(also) == before
    write(also, [*rows, ("which fan?", "The fan is new.")])
    after = keys(also)
    assert {name for name in before if before[name] != after[name]} == {"train", "evaluate", "index"}
    also.unlink()
    with pytest.raises(DatasetError, match=r"also\.jsonl"):
        keys(also)


@pytest.mark.slow
def test_a_run_reports_each_task_and_keeps_its_test_queries_unseen(
    suite: Path, write_suite: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    # The further dataset holds a part of the main one's memories, with their queries: those of dev and test are lost.
    other = write_suite(tmp_path / "team.json", 48)
    settings = ["--epochs", "1", "--batch-size", "32", "--mode", "full", "--budget", "10"]
    arguments = ["run", "--data", suite, "--out", tmp_path / "run", "--also", other, "--tasks", "paraphrases,category"]
    planned = CliRunner().invoke(app, [*map(str, arguments), *settings, "--dry-run", "--json"])
    assert planned.exit_code == 0, planned.output
    done = CliRunner().invoke(app, [*map(str, arguments), *settings])
    assert done.exit_code == 0, done.output
    run = ace.RunFolder.open(tmp_path / "run")
    record = read_provenance(run.model)
    assert record is not None
    further, *derived = record["metrics"]["tasks"]
    assert further["name"] == "team.json"
    assert further["left_out"]["held_out_query"] > 0
    assert [task["name"] for task in derived] == ["paraphrases", "category"]
    report = json.loads(run.report.read_text(encoding="utf-8"))
    assert report["training"]["metrics"]["tasks"] == record["metrics"]["tasks"]
    page = run.report.with_suffix(".html").read_text(encoding="utf-8")
    assert "Further tasks that were trained along" in page
    assert "<bdi>team.json</bdi>" in page
    seen = set(record["seen"]["train"]["query_hashes"])
    held = {hashed for part in ("dev", "test") for hashed in record["split"]["queries"][part].values()}
    assert held
    assert seen.isdisjoint(held)
    trained = {text_hash(example.query) for example in ace.TrainingData.load(run.training_data).examples_of("train")}
    assert len(seen) > len(trained)  # queries of the further dataset are seen too
    queries = [len(ace.TrainingData.load(run.training_data).examples_of("train"))]
    queries.extend(task["queries"] for task in record["metrics"]["tasks"])
    counts = batches_per_epoch(queries, -(-queries[0] // 32), 2.0)
    (full,) = [stage["does"] for stage in json.loads(planned.stdout)["stages"] if stage["stage"] == "train: full"]
    assert f" of {sum(counts)} steps ({sum(counts[1:])} of further tasks), " in full
