"""Settings with the names and margins of version 0.1.0 keep their meaning."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.cli.flags import mining_flags
from llama_index_ace_finetune.cli.old_options import OLD_OPTIONS, renamed, run_first
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.pipeline.config_file import run_settings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.utils.old_settings import current_mining, current_training

OLD_MINING = {"top_k": 30, "min_rank": 3, "relative_margin": 0.95, "relaxation": [1.0, None], "selection": "top"}
NEW_MINING = MiningSettings(
    range_max=30, range_min=2, relative_margin=0.05, relaxation=(0.0, None), sampling_strategy="top"
)


def write_config(folder: Path, content: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return path


def test_old_mining_settings_get_new_names_and_margins() -> None:
    settings = current_mining(OLD_MINING)
    assert MiningSettings(**{**settings, "relaxation": tuple(settings["relaxation"])}) == NEW_MINING
    assert current_mining({"min_rank": None, "relative_margin": None}) == {"range_min": 0, "relative_margin": None}
    assert current_mining({"near_duplicate": 0.9}) == {"near_duplicate": 0.9}
    assert current_training({"suspected_margin": 1.1, "epochs": 3}) == {"suspected_margin": -0.1, "epochs": 3}


def test_old_config_file_keeps_its_meaning_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = {"data": "d", "out": "o", "negatives": 3, "mining": OLD_MINING, "training": {"suspected_margin": 0.9}}
    with caplog.at_level(logging.WARNING):
        found = run_settings(write_config(tmp_path, content), {})
    assert (found.num_negatives, found.mining, found.training.suspected_margin) == (3, NEW_MINING, 0.1)
    (warning,) = caplog.messages
    assert "mining.top_k, mining.min_rank, mining.selection, negatives" in warning
    assert "0.95 as 0.05 below" in warning


def test_config_file_with_old_and_new_names_is_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"data": "d", "out": "o", "mining": {"top_k": 30, "range_min": 2}})
    with pytest.raises(AceFinetuneError, match=r"mixes a name of version 0.1.0 \(mining.top_k\) .*mining.range_min"):
        run_settings(path, {})


@pytest.mark.parametrize(
    "section", [{"top_k": "many"}, {"min_rank": "first"}, {"relative_margin": "much", "top_k": 3}, {"relaxation": 3}]
)
def test_wrong_value_under_an_old_name_is_refused(tmp_path: Path, section: dict[str, object]) -> None:
    with pytest.raises(AceFinetuneError, match="it must be"):
        run_settings(write_config(tmp_path, {"data": "d", "out": "o", "mining": section}), {})


def test_config_file_with_new_names_has_distances(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_config(tmp_path, {"data": "d", "out": "o", "mining": {"range_max": 30, "relative_margin": 0.1}})
    assert run_settings(path, {}).mining.relative_margin == 0.1
    assert not caplog.messages


def test_old_flags_are_accepted_and_hidden(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    data = Path(__file__).parent.parent / "examples" / "data" / "playbook_suite.json"
    words = ["run", "--data", str(data), "--out", str(tmp_path / "o"), "--dry-run"]
    old = ["--negatives", "7", "--top-k=4", "--min-rank", "5", "--selection", "top"]
    for flag in ("--negatives", "--top-k", "--min-rank", "--selection"):
        assert f"{flag} " not in shown
    refused = CliRunner().invoke(app, [*words, *old])
    assert "range_min is 4; it must be from 0 to below range_max (4)" in " ".join(refused.stderr.split())
    given = [*old, "--min-rank=9", "--", "--top-k"]
    current = ["--num-negatives", "7", "--range-max=4", "--range-min", "4", "--sampling-strategy", "top"]
    assert renamed(given, set(OLD_OPTIONS.values())) == [*current, "--range-min=8", "--", "--top-k"]
    assert renamed(given, {"--top-k"}) == given
    assert mining_flags({"no_relative_margin": True}) == {"relative_margin": None}
    assert mining_flags({"relative_margin": 0.0, "relax": True}) == {"relative_margin": 0.0, "relaxation": (0.0, None)}


def test_margin_in_the_old_range_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        HardNegativeMiner(settings=MiningSettings(relative_margin=0.95))
        EmbeddingFineTuner(TrainingConfig(suspected_margin=0.9))
        HardNegativeMiner(settings=MiningSettings(relative_margin=0.5))
        HardNegativeMiner()
    mining, training = caplog.messages
    assert mining.startswith("relative_margin is 0.95, so only documents that score below 0.05 of the positive")
    assert mining.endswith("for scores up to 0.95 of the positive set 0.05")
    assert training.startswith("suspected_margin is 0.9")


def test_training_settings_that_old_versions_saved_keep_their_meaning(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"suspected_margin": 0.95, "epochs": 2}), encoding="utf-8")
    assert TrainingConfig.load(path).suspected_margin == 0.05
    for margin in (0.05, 0.95, -0.1):
        TrainingConfig(suspected_margin=margin).save(path)
        assert TrainingConfig.load(path).suspected_margin == margin


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["text", "--run", "my-run", "--limit", "3"], ["my-run", "text", "--limit", "3"]),
        (["--run=my-run", "text"], ["my-run", "text"]),
        (["--run", "my-run", "--", "--run"], ["my-run", "--", "--run"]),
        (["my-run", "text"], ["my-run", "text"]),
        (["my-run", "--", "--run", "x"], ["my-run", "--", "--run", "x"]),
        (["text", "--run"], ["text", "--run"]),
    ],
)
def test_search_accepts_its_run_as_an_option(given: list[str], expected: list[str]) -> None:
    assert run_first(given) == expected


@pytest.mark.parametrize(
    ("verb", "option", "choices"),
    [
        ("run", "--mode", ("auto", "linear", "queries", "in_batch", "full", "towers")),
        ("run", "--min-difficulty", ("easy", "medium", "hard")),
        ("generate", "--sampling-strategy", ("top", "random", "spread")),
        ("train", "--precision", ("auto", "float32", "bfloat16")),
        ("search", "--mode", ("hybrid", "dense", "sparse")),
        ("export", "--backend", ("onnx", "openvino")),
    ],
)
def test_choices_are_shown_and_checked(verb: str, option: str, choices: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
    assert f"<{'|'.join(choices)}>" in shown
    refused = CliRunner().invoke(app, [verb, option, "best"])
    assert refused.exit_code == 2
    message = " ".join(refused.stderr.replace("│", " ").split())
    assert "'best' is not one of" in message
    assert all(f"'{choice}'" in message for choice in choices)


def test_out_is_one_option_and_accepts_the_old_spellings() -> None:
    for verb, old in (("generate", "--output"), ("evaluate", "--output"), ("train", "--output-dir")):
        shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
        assert "--out " in shown
        assert old not in shown
        assert renamed([old, "x"], {"--out"}) == ["--out", "x"]
