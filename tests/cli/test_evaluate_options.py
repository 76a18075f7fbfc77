from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.evaluation.metrics.trec_run import TrecRun, write_run

runner = CliRunner()


@pytest.mark.slow
def test_further_systems_and_a_learning_curve(finished_run: Path, suite: Path, tmp_path: Path) -> None:
    dataset = read_dataset(suite)
    trec = tmp_path / "perfect.txt"
    hits = {i: [(sorted(dataset.relevant(i))[0], 1.0)] for i in dataset.queries if dataset.relevant(i)}
    write_run(trec, TrecRun("perfect", hits))
    other = str(resolve_checkpoint(DEFAULT_BASE_MODEL))
    arguments = ["evaluate", "--data", str(suite), "--model", str(finished_run / "model"), "--output"]
    arguments += [str(tmp_path / "report.json"), "--also", other, "--trec", str(trec), "--curve", "16,10000", "--json"]
    arguments += ["--run-files", str(tmp_path / "runs")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [system["name"] for system in report["systems"][-2:]] == [other, "perfect"]
    assert report["systems"][-1]["means"]["Success@1"] == 1.0
    assert report["verdict"]["best_untuned"] == "perfect"
    assert {"qrels.txt", "BM25.run", "perfect.run"} <= {path.name for path in (tmp_path / "runs").iterdir()}
    sizes = [point["queries"] for point in report["learning_curve"]["points"]]
    split = json.loads((finished_run / "split.json").read_text(encoding="utf-8"))
    assert sizes == [16, split["counts"]["train"]["queries"]]
    assert "From 16 to" in report["learning_curve"]["sentence"]


def test_invalid_options_are_refused(finished_run: Path, suite: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "--data", str(suite), "--model", str(finished_run / "model"), "--output"]
    arguments.append(str(tmp_path / "report.json"))
    for option, message in (
        (["--curve", "many"], "write numbers such as"),
        (["--also", str(tmp_path / "gone")], "gone"),
        (["--run-files", str(finished_run / "model")], "did not write"),
        (["--trec", str(tmp_path / "gone.txt")], "gone.txt"),
        (["--query-ms", "0"], "The limit query-ms is 0"),
        (["--sparse-encoder", str(finished_run / "model")], "is no sparse encoder"),
    ):
        result = runner.invoke(app, [*arguments, *option])
        assert result.exit_code == 2, result.output
        assert message in result.output
    assert not (tmp_path / "report.json").exists()
