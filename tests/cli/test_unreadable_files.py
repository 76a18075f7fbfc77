"""Files and folders without permission, and paths that the system refuses: one sentence, exit status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.permissions import permissions_hold
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.cli.execute import run_command
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.utils.atomic import write_json


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with data, a configuration, and the files of a run that are read before any model is."""
    rows = [{"query": f"question {n}", "answer": f"answer number {n}"} for n in range(12)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "run.yaml").write_text("data: data.jsonl\nout: run-2\n", encoding="utf-8")
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "index").mkdir()
    write_json(run / "manifest.json", {"format_version": 1, "base_model": "./nowhere"})
    write_json(run / "report.json", {"serving": {"vectors": "model", "weights": [1, 1]}})
    write_json(run / "split.json", {})
    write_json(run / "training_data.json", {"examples": []})
    return tmp_path


CASES = [
    ("data.jsonl", ["inspect", "--data", "data.jsonl"]),
    ("data.jsonl", ["run", "--data", "data.jsonl", "--out", "out"]),
    ("data.jsonl", ["run", "--data", "data.jsonl", "--out", "out", "--dry-run"]),
    ("data.jsonl", ["generate", "--data", "data.jsonl", "--output", "training.json"]),
    ("data.jsonl", ["evaluate", "--data", "data.jsonl", "--model", DEFAULT_BASE_MODEL]),
    ("data.jsonl", ["index", "--data", "data.jsonl", "--model", "run/model", "--out", "out"]),
    ("run.yaml", ["run", "--config", "run.yaml"]),
    ("run", ["search", "x", "--run", "run"]),
    ("run", ["report", "run"]),
    ("run", ["audit", "run"]),
    ("run", ["compare", "run", "run/report.json"]),
    ("run", ["export", "run", "--backend", "onnx"]),
    ("run", ["vectors", "run"]),
    ("run/report.json", ["search", "x", "--run", "run"]),
    ("run/report.json", ["report", "run"]),
    ("run/report.json", ["compare", "run/report.json", "run"]),
    ("run/manifest.json", ["audit", "run"]),
    ("run/split.json", ["audit", "run/split.json", "--data", "data.jsonl"]),
    ("run/training_data.json", ["train", "--training-data", "run/training_data.json", "--output-dir", "out"]),
    ("run/training_data.json", ["vectors", "run"]),
]


@pytest.mark.parametrize(
    ("unreadable", "arguments"), CASES, ids=lambda case: case if isinstance(case, str) else case[0]
)
def test_unreadable_file_is_one_sentence(
    unreadable: str, arguments: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    mode = (place / unreadable).stat().st_mode
    (place / unreadable).chmod(0)
    try:
        with permissions_hold():
            result = CliRunner().invoke(app, arguments)
    finally:
        (place / unreadable).chmod(mode)
    message = result.stderr.strip()
    assert (result.exit_code, message[:7]) == (2, "error: "), message
    assert "\n" not in message
    assert Path(unreadable).name in message
    assert "ermission" in message
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("name", ["x" * 300, "loop", "data.jsonl/inside", "."])
def test_path_that_the_system_refuses_is_one_sentence(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    Path("loop").symlink_to("loop")
    for arguments in (["inspect", "--data", name], ["report", name], ["audit", name], ["run", "--config", name]):
        result = CliRunner().invoke(app, arguments)
        assert (result.exit_code, result.stderr[:7]) == (2, "error: "), (arguments, result.stderr)
        assert result.stderr.count("\n") == 1


def test_error_of_the_system_is_a_sentence_and_a_bug_is_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(lambda: (tmp_path / "a" / "b").write_text("x") and None) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path / "a" / "b") in said
    assert run_command(lambda: [][0]) == 3
    assert "Traceback" in capsys.readouterr().err
