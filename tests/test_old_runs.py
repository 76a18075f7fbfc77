"""A run folder of version 0.1.0 is read by every command and class that takes a run folder."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.evaluation.report.per_query import PerQuery
from llama_index_ace_finetune.evaluation.report.report import read_report
from llama_index_ace_finetune.pipeline.config_file import run_settings
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.serving import Serving
from llama_index_ace_finetune.training.config import TrainingConfig

ARCHIVE = Path(__file__).parent / "fixtures" / "run_0_1_0.tar.gz"
QUERY = "tonnes the winch may raise harbour crane"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def old_run(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run folder in its original working directory, to which the paths of base model and data are relative."""
    shutil.copytree(unpacked, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("run")


def run_command(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_old_report_is_shown(old_run: Path) -> None:
    page = (old_run / "report.html").read_text(encoding="utf-8")
    (old_run / "report.html").unlink()
    shown = json.loads(run_command("report", "run", "--json"))
    assert shown["serving"]["system"] == "tuned + BM25"
    assert [system["name"] for system in shown["systems"]][:2] == ["BM25", "base"]
    assert len((old_run / "report.html").read_text(encoding="utf-8")) > len(page) / 2


def test_old_run_is_searched(old_run: Path) -> None:
    found = json.loads(run_command("search", "run", QUERY, "--limit", "3", "--json"))
    assert "harbour crane" in json.dumps(found)
    assert json.loads(run_command("search", QUERY, "--run", "run", "--limit", "3", "--json")) == found


def test_old_run_is_served(old_run: Path) -> None:
    assert RunFolder.open(old_run).serving() == Serving("model", (0.5, 0.5), (0.5, 0.5))
    retriever = FineTunedHybridRetriever.from_run(old_run, similarity_top_k=24)
    try:
        hits = retriever.retrieve(QUERY)
    finally:
        retriever.close()
    assert len(hits) == 24
    assert {hit.served_by for hit in hits} == {"finetuned"}


def test_old_runs_are_compared(old_run: Path) -> None:
    shutil.copytree(old_run, "other")
    run_command("compare", "run", "other")


def test_old_split_is_audited(old_run: Path) -> None:
    assert "passed" in run_command("audit", "run")


def test_old_model_is_exported(old_run: Path) -> None:
    run_command("export", "run", "--backend", "onnx", "--max-loss", "1")
    assert (old_run / "model" / "onnx" / "ace_finetune_export.json").is_file()


def test_every_json_of_an_old_run_is_read(old_run: Path) -> None:
    run = RunFolder.open(old_run)
    assert run.read_manifest()["package_version"] == "0.1.0"
    assert run.base_model() == "base"
    data = TrainingData.load(run.training_data)
    assert (len(data.examples), len(data.memories)) == (57, 24)
    assert all(example.negatives for example in data.examples)
    split = Split.load(run.split)
    assert (len(split.train), len(split.dev), len(split.test)) == (36, 21, 15)
    assert read_report(run.report)["metadata"]["total_queries_evaluated"] == 15
    assert len(PerQuery.read(old_run / "report.per_query.jsonl").query_ids) == 15
    record = read_provenance(run.model)
    assert record is not None
    assert record["base_model"] == "base"


def test_margins_of_an_old_run_are_read_as_distances(old_run: Path, tmp_path: Path) -> None:
    run = RunFolder.open(old_run)
    manifest = run.read_manifest()
    assert manifest["num_negatives"] == 3
    assert manifest["mining"]["relative_margin"] == 0.05
    assert manifest["mining"]["relaxation"] == [0.0, None]
    assert (manifest["mining"]["range_min"], manifest["mining"]["range_max"]) == (1, 50)
    assert manifest["training"]["suspected_margin"] == -0.1
    assert read_report(run.report)["training"]["config"]["suspected_margin"] == -0.1
    record = read_provenance(run.model)
    assert record is not None
    assert record["config"]["suspected_margin"] == -0.1
    data = TrainingData.load(run.training_data)
    for mining in (data.metadata["mining"], record["data"]["mining"]):
        assert mining["settings"] == manifest["mining"]
        assert [step["relative_margin"] for step in mining["relaxed"]] == [0.0, None]
    data.save(tmp_path / "again.json")
    assert TrainingData.load(tmp_path / "again.json") == data


def test_config_of_an_old_run_gives_the_same_settings(old_run: Path) -> None:
    settings = run_settings(old_run / "config.yaml", {})
    manifest = RunFolder.open(old_run).read_manifest()
    assert settings.mining.to_dict() == manifest["mining"]
    # Settings of later versions have their defaults.
    later = TrainingConfig(output_dir=settings.training.output_dir).to_dict()
    assert settings.training.to_dict() == {**later, **manifest["training"]}
    assert settings.num_negatives == 3
