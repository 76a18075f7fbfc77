"""A run from a file, made again: the same, unchanged, changed; and its plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.pipeline.config_file import config_text, run_settings
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.training.config import TrainingConfig

runner = CliRunner()


@pytest.fixture(scope="module")
def config(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    settings = RunSettings(data=suite, out=folder / "run", training=TrainingConfig(mode="linear", device="cpu"))
    (folder / "ace-finetune.yaml").write_text(config_text(settings), encoding="utf-8")
    return folder / "ace-finetune.yaml"


@pytest.fixture(scope="module")
def printed(config: Path) -> dict[str, Any]:
    """What `run --json` prints."""
    done = runner.invoke(app, ["run", "--config", str(config), "--json"])
    assert done.exit_code == 0, done.output
    assert "split: train" in done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def run(printed: dict[str, Any]) -> Path:
    return Path(printed["run"]["folder"])


def stages_kept(output: str) -> list[str]:
    return [line.partition(":")[0] for line in output.splitlines() if "inputs have not changed" in line]


def test_json_is_the_report_with_the_paths_of_the_run(printed: dict[str, Any], run: Path) -> None:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    places = printed.pop("run")
    assert printed == report
    assert all(Path(places[name]).exists() for name in ("model", "index", "report"))


def test_run_folder_records_settings_seeds_and_versions(config: Path, run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["seeds"] == {"split": 0, "mining": 0, "training": 0}
    assert manifest["environment"]["packages"]["torch"]
    assert (manifest["training"]["mode"], manifest["num_negatives"]) == ("linear", 5)
    assert run_settings(run / "config.yaml", {}) == run_settings(config, {})


def test_unchanged_run_is_shown_and_not_repeated(config: Path, run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = runner.invoke(app, ["run", "--config", str(config)])
    assert done.exit_code == 0
    assert "nothing has changed" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert [path.name for path in run.parent.glob(".*")] == []


def test_require_gain_without_a_gain_exits_1(config: Path, run: Path) -> None:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))["verdict"]
    gain = report["ship_tuned"] and report["confirmed"]
    for arguments in (["run", "--config", str(config)], ["report", str(run)]):
        done = runner.invoke(app, [*arguments, "--require-gain"])
        assert done.exit_code == (0 if gain else 1)
        # It says why it exits 1, on standard error.
        assert [line.startswith("--require-gain: exit 1, since ") for line in done.stderr.splitlines()] == [True] * (
            not gain
        )
        assert runner.invoke(app, arguments).exit_code == 0


def test_run_ends_with_the_next_steps(config: Path, run: Path) -> None:
    shown = runner.invoke(app, ["run", "--config", str(config)]).stdout
    end = shown.partition(" s in total\n")[2]
    assert "next    " in end
    assert f"ace-finetune search {run} " in end
    assert "FineTunedHybridRetriever.from_run(" in end
    quiet = runner.invoke(app, ["--quiet", "run", "--config", str(config)]).stdout
    assert quiet.endswith(" s in total\n")


@pytest.mark.slow
def test_the_same_file_and_data_give_the_same_result(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = runner.invoke(app, ["run", "--config", str(run / "config.yaml"), "--out", str(again), "--quiet"])
    assert done.exit_code == 0, done.output
    assert (again / "training_data.json").read_bytes() == (run / "training_data.json").read_bytes()
    assert (again / "report.per_query.jsonl").read_bytes() == (run / "report.per_query.jsonl").read_bytes()
    first, second = (json.loads((one / "manifest.json").read_text(encoding="utf-8")) for one in (run, again))
    assert first["stages"] == second["stages"]
    (again / "report.json").unlink()
    resumed = runner.invoke(app, ["run", "--config", str(run / "config.yaml"), "--out", str(again), "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert stages_kept(resumed.output) == ["mine", "train"]  # the report says what the index must serve
    assert (again / "report.per_query.jsonl").read_bytes() == (run / "report.per_query.jsonl").read_bytes()


@pytest.mark.slow
def test_changed_training_keeps_mined_negatives(config: Path, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    arguments = ["run", "--config", str(config), "--out", str(copy), "--epochs", "2"]
    refused = runner.invoke(app, arguments)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    planned = runner.invoke(app, [*arguments, "--resume", "--dry-run", "--json"])
    does = {stage["stage"]: stage["does"] for stage in json.loads(planned.stdout)["stages"]}
    assert [name for name, what in does.items() if what.startswith("nothing")] == ["mine"]
    done = runner.invoke(app, [*arguments, "--resume"])
    assert done.exit_code == 0, done.output
    assert stages_kept(done.output) == ["mine"]
    assert "epochs: 2" in (copy / "config.yaml").read_text(encoding="utf-8")


def test_dry_run_writes_nothing(suite: Path, tmp_path: Path) -> None:
    arguments = ["run", "--data", str(suite), "--out", str(tmp_path / "out"), "--dry-run"]
    done = runner.invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    names = ["mine", "train: linear", "train: in_batch", "train: full", "train: refit", "evaluate", "index"]
    assert [stage["stage"] for stage in plan["stages"]] == names
    assert plan["queries"] == {"train": 70, "dev": 20, "test": 30}
    assert 0 < plan["seconds"] == pytest.approx(sum(stage["seconds"] for stage in plan["stages"]), abs=0.5)
    assert list(tmp_path.iterdir()) == []


def test_search_and_audit_print_json(run: Path) -> None:
    hits = json.loads(runner.invoke(app, ["search", "sign out", "--run", str(run), "--limit", "2", "--json"]).stdout)
    assert [hit["rank"] for hit in hits] == [1, 2]
    assert {"id", "score", "text", "metadata", "served_by", "dense_score", "sparse_rank"} <= set(hits[0])
    audit = json.loads(runner.invoke(app, ["audit", str(run), "--json"]).stdout)
    assert audit["passed"] is True
    assert all(overlap["count"] == 0 for overlap in audit["overlaps"] if overlap["forbidden"])
