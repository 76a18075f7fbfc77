from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.run_folder import RunFolder

runner = CliRunner()


def test_run_folder_holds_all_outputs_and_nothing_else(finished_run: Path) -> None:
    assert sorted(path.name for path in finished_run.iterdir()) == [
        ".ace-finetune.json",
        "config.yaml",
        "index",
        "manifest.json",
        "mining",
        "model",
        "report.html",
        "report.json",
        "report.per_query.jsonl",
        "split.json",
        "training_data.json",
    ]
    assert [path.name for path in finished_run.parent.iterdir()] == ["run"]


def test_the_report_compares_all_systems_on_test_queries_only(finished_run: Path) -> None:
    report = json.loads((finished_run / "report.json").read_text(encoding="utf-8"))
    split = json.loads((finished_run / "split.json").read_text(encoding="utf-8"))
    names = [system["name"] for system in report["systems"]]
    always = ["BM25"] + [
        f"{model}{fusion}"
        for model in ("base", "tuned")
        for fusion in ("", " + BM25", " + BM25, dev weights", " + BM25, convex")
    ]
    assert [name for name in names if name in always] == always
    # And what was selected on dev, with and without the tuned model.
    assert len(names) <= len(always) + 2
    assert report["serving"]["system"] in names
    assert report["metadata"]["total_queries_evaluated"] == split["counts"]["test"]["queries"]
    assert report["verdict"]["sentence"]


def test_the_precision_of_all_vectors_is_recorded(finished_run: Path) -> None:
    names = ("manifest.json", "report.json", "training_data.json", "model/ace_finetune.json")
    records = [json.loads((finished_run / name).read_text(encoding="utf-8")) for name in names]
    manifest, report, data, model = records
    assert report["precision"] in ("float32", "bfloat16")
    found = {manifest["precision"], data["metadata"]["mining"]["precision"], model["metrics"]["precision"]}
    assert found == {report["precision"]}


def test_training_never_saw_a_held_out_answer(finished_run: Path) -> None:
    split = json.loads((finished_run / "split.json").read_text(encoding="utf-8"))
    data = json.loads((finished_run / "training_data.json").read_text(encoding="utf-8"))
    held = set(split["answers"]["test"])
    for example in data["examples"]:
        assert held.isdisjoint(example["positive_ids"])
        assert held.isdisjoint(example["negative_ids"])


def test_audit_of_a_run_passes(finished_run: Path) -> None:
    result = runner.invoke(app, ["audit", str(finished_run)])
    assert result.exit_code == 0, result.output
    assert "passed" in result.output


def test_audit_of_a_leaking_split_exits_1(finished_run: Path, suite: Path, tmp_path: Path) -> None:
    split = json.loads((finished_run / "split.json").read_text(encoding="utf-8"))
    # Move one query of a tested memory to train: its sisters stay behind.
    moved = sorted(split["queries"]["test"])[0]
    split["queries"]["train"][moved] = split["queries"]["test"].pop(moved)
    answer = moved.rsplit("-", 1)[0]
    split["answers"]["train"][answer] = split["answers"]["test"][answer]
    leaking = tmp_path / "split.json"
    leaking.write_text(json.dumps(split), encoding="utf-8")
    result = runner.invoke(app, ["audit", str(leaking), "--data", str(suite)])
    assert result.exit_code == 1, result.output
    assert "FORBIDDEN" in result.output


def test_inspect_counts(suite: Path) -> None:
    result = runner.invoke(app, ["inspect", "--data", str(suite)])
    assert result.exit_code == 0, result.output
    assert "120" in result.output


def test_search_and_evaluate_a_run(finished_run: Path, suite: Path, tmp_path: Path) -> None:
    found = runner.invoke(app, ["search", "users are logged out too early", "--run", str(finished_run), "--limit", "3"])
    assert found.exit_code == 0, found.output
    assert found.output.count("served by") == 3
    output = tmp_path / "report.json"
    arguments = ["evaluate", "--data", str(suite), "--model", str(finished_run / "model"), "--output", str(output)]
    evaluated = runner.invoke(app, [*arguments, "--max-queries", "10"])
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(output.read_text(encoding="utf-8"))["metadata"]["total_queries_evaluated"] == 10
    assert output.with_suffix(".html").is_file()


def test_index_builds_again(finished_run: Path, suite: Path, tmp_path: Path) -> None:
    arguments = ["index", "--data", str(suite), "--model", str(finished_run / "model"), "--out", str(tmp_path / "i")]
    assert runner.invoke(app, arguments).exit_code == 0
    refused = runner.invoke(app, arguments)
    assert refused.exit_code == 2
    assert "already holds an index" in refused.output
    assert runner.invoke(app, [*arguments, "--replace"]).exit_code == 0


def test_failed_run_leaves_only_its_work_folder(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_index_ace_finetune.errors import TrainingError
    from llama_index_ace_finetune.pipeline.stages import train

    def fail(*_: object, **__: object) -> None:
        raise TrainingError("The disk is full; free some of it.")

    monkeypatch.setattr(train, "train_model", fail)
    result = runner.invoke(app, ["run", "--data", str(suite), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".out.work"]
    monkeypatch.undo()
    (tmp_path / ".out.work" / "work.json").write_text('{"inputs": "others"}', encoding="utf-8")
    refused = runner.invoke(app, ["run", "--data", str(suite), "--out", str(tmp_path / "out"), "--resume"])
    assert refused.exit_code == 2
    assert "had other data or settings" in " ".join(refused.stderr.split())


def test_serving_is_read_from_the_report(finished_run: Path) -> None:
    report = json.loads((finished_run / "report.json").read_text(encoding="utf-8"))
    serving = RunFolder.open(finished_run).serving()
    assert (serving.vectors, list(serving.weights)) == (report["serving"]["vectors"], report["serving"]["weights"])
