"""General queries on the command line, in a run's stages and in the messages of a training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.cli.execute import run_command
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.pipeline.config_file import config_text, run_settings
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages.register import stage_keys
from llama_index_ace_finetune.pipeline.train import describe_mode
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.model_selection.interpolation import Selection
from llama_index_ace_finetune.training.model_selection.retention import RetentionRecord
from llama_index_ace_finetune.training.modes.result import ModeResult

runner = CliRunner()
SURE = PairedDifference(mean=0.1, low=0.05, high=0.2, p_value=0.01, wins=3, ties=1, losses=0)
UNSURE = replace(SURE, p_value=0.07)


@pytest.fixture
def training_file(small_dataset: RetrievalDataset, tmp_path: Path) -> Path:
    rows = [
        {"query": query.text, "positive": small_dataset.memories[next(iter(small_dataset.judgements[i]))].text}
        for i, query in small_dataset.queries.items()
    ]
    path = tmp_path / "training_data.json"
    path.write_text(json.dumps({"examples": rows}), encoding="utf-8")
    return path


@pytest.mark.parametrize("content", [None, "{", '{"test_cases": []}'])
def test_unreadable_retention_set_is_one_sentence(training_file: Path, tmp_path: Path, content: str | None) -> None:
    general = tmp_path / "general.json"
    if content is not None:
        general.write_text(content, encoding="utf-8")
    arguments = ["train", "--training-data", training_file, "--output-dir", tmp_path / "model", "--retention", general]
    done = runner.invoke(app, list(map(str, arguments)))
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    assert "general.json" in done.stderr
    assert not (tmp_path / "model").exists()


def test_option_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("{data: d, out: o, training: {retention: a.json, retention_loss: 0.02}}", encoding="utf-8")
    assert run_settings(file, {}).training == TrainingConfig(retention="a.json", retention_loss=0.02)
    assert run_settings(file, {"training": {"retention": "b.json"}}).training.retention == "b.json"
    assert "  retention: null" in config_text()


def test_training_is_repeated_only_if_the_content_of_the_set_changed(
    small_suite: Path, small_dataset: RetrievalDataset, tmp_path: Path
) -> None:
    general = tmp_path / "general.json"
    suite = json.loads(small_suite.read_text(encoding="utf-8"))
    keys = []
    for count in (12, 12, 11):
        general.write_text(json.dumps({**suite, "test_cases": suite["test_cases"][:count]}), encoding="utf-8")
        settings = RunSettings(data=small_suite, out=tmp_path / "run", training=TrainingConfig(retention=str(general)))
        keys.append(stage_keys(settings, small_dataset))
    without = stage_keys(RunSettings(data=small_suite, out=tmp_path / "run"), small_dataset)
    assert keys[0] == keys[1]
    assert keys[2]["train"] not in (keys[0]["train"], without["train"])
    assert keys[0]["mine"] == keys[2]["mine"] == without["mine"]


@pytest.mark.parametrize(
    ("alpha", "difference", "losses", "line"),
    [
        (1.0, SURE, {1.0: 0.004}, "better than the base; general queries lose +0.004 of MRR@10, 0.01 is allowed"),
        (
            0.0,
            SURE,
            {1.0: 0.2, 0.5: 0.05},
            "rejected (forgetting); general queries lose +0.050 of MRR@10, 0.01 is allowed",
        ),
        (0.0, UNSURE, {}, "not significant, p = .070 is above .05: base kept"),
    ],
)
def test_line_of_a_mode_names_why_it_ships_or_not(
    alpha: float, difference: PairedDifference, losses: dict[float, float], line: str
) -> None:
    record = RetentionRecord(queries=4, memories=9, base_mrr=0.5, bound=0.01, losses=losses)
    selection = Selection(alpha=alpha, difference=difference, candidates={}, retention=record)
    result = ModeResult("full", selection, 0.5, 1, 1.0, 2.0, (), lambda model: model)
    assert describe_mode(result).endswith(f"in 2 s, {line}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def save() -> None:
        Path("/dev/full").write_text("weights", encoding="utf-8")

    assert run_command(save) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: The disk is full (")
    assert printed.count("\n") == 1


def test_full_disk_reported_by_a_library_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def save() -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    assert run_command(save) == 2
    assert "free some space" in capsys.readouterr().err
