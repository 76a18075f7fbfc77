"""Several base models, of which dev chooses the one that is tuned."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest

import llama_index_ace_finetune as ace
from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample
from llama_index_ace_finetune.encoders import checkpoints
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.local_bases import UNUSABLE
from llama_index_ace_finetune.errors import ModelError, TrainingError
from llama_index_ace_finetune.pipeline.choose_base import (
    base_candidates,
    base_names,
    is_choice,
    with_one_base,
)
from llama_index_ace_finetune.pipeline.dev_queries import dev_of_training_data
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.training.config import TrainingConfig
from tests.encoders.tiny_model import tiny_model


def test_names_are_separated_by_commas(tmp_path: Path) -> None:
    assert base_names("a, b/c,,a") == ("a", "b/c")
    assert base_names("a") == ("a",)
    folder = tmp_path / "with,comma"
    folder.mkdir()
    assert base_names(str(folder)) == (str(folder),)
    asked = ["a", str(folder), "a,b", "auto", "auto,a"]
    assert [is_choice(one) for one in asked] == [False, False, True, True, True]


def data(*parts: str) -> TrainingData:
    memories = {str(number): f"memory {number}" for number in range(4)}
    examples = (
        TrainingExample(f"q{number}", f"query {number}", (str(number % 4),), (HardNegative("3"),), split=part)
        for number, part in enumerate(parts)
    )
    return TrainingData(tuple(examples), memories, split={"queries": {}})


def test_without_dev_queries_or_with_tuned_models_nothing_is_compared(tmp_path: Path) -> None:
    config = TrainingConfig(base_model=f"{DEFAULT_BASE_MODEL},{tmp_path}/tuned")
    with pytest.raises(TrainingError, match="no dev queries, on which 2 base models"):
        with_one_base(config, dev_of_training_data(data("train", "train"), config), PipelineEvents())
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "ace_finetune.json").write_text(json.dumps({"base_model": "x"}), encoding="utf-8")
    with pytest.raises(ModelError, match="was tuned by this package"):
        with_one_base(config, dev_of_training_data(data("train", "dev"), config), PipelineEvents())


class Messages(PipelineEvents):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with a/tiny and a/damaged, whose pooling is unknown, on a machine without the default model."""
    hub = tmp_path / "hub"
    for name in ("tiny", "damaged"):
        repository = hub / f"models--a--{name}"
        shutil.copytree(tiny, repository / "snapshots" / ("a" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    pooling = hub / "models--a--damaged" / "snapshots" / ("a" * 40) / "1_Pooling" / "config.json"
    pooling.write_text('{"word_embedding_dimension": 32, "pooling_mode": "unknown"}', encoding="utf-8")
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    # huggingface_hub reads the variable when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(checkpoints, "_bundled_folder", lambda: None)
    return hub


def test_auto_compares_what_can_be_loaded_and_says_what_cannot(hub: Path) -> None:
    config = TrainingConfig(base_model="auto", device="cpu", precision="float32")
    events = Messages()
    one, choice = with_one_base(config, dev_of_training_data(data("train", "dev"), config), events)
    assert one.base_model == "a/tiny"
    record = json.loads(json.dumps(choice.to_dict()))
    assert [model["name"] for model in record["models"]] == [record["chosen"]] == ["a/tiny"]
    assert record["models"][0]["bytes_per_memory"] == 4 * 32
    assert record["skipped"][0]["name"] == DEFAULT_BASE_MODEL
    assert record["skipped"][1] == {"name": "a/damaged", "why": UNUSABLE}
    assert f"base model a/damaged is not compared: {UNUSABLE}" in events.lines
    assert events.lines[-1] == "base model a/tiny is tuned"
    # A model that was named is not skipped.
    named = TrainingConfig(base_model="auto,a/damaged", device="cpu", precision="float32")
    with pytest.raises(ModelError, match="damaged"):
        with_one_base(named, dev_of_training_data(data("train", "dev"), named), events)


def test_the_only_model_on_this_machine_is_not_measured(hub: Path) -> None:
    shutil.rmtree(hub / "models--a--damaged")
    config = TrainingConfig(base_model="auto")
    one, choice = with_one_base(config, None, PipelineEvents())
    assert (one.base_model, choice.to_dict()["models"]) == ("a/tiny", [])
    assert base_candidates("auto,b").names == ("a/tiny", "b")
    with pytest.raises(TrainingError, match="no dev queries, on which 2 base models"):
        with_one_base(TrainingConfig(base_model="auto,b"), None, PipelineEvents())
    shutil.rmtree(hub)
    with pytest.raises(ModelError, match="No base model is on this machine"):
        base_candidates("auto")


@pytest.fixture
def one_layer(minilm: Encoder, tmp_path: Path) -> str:
    model = copy.deepcopy(minilm.model)
    transformer = model[0].auto_model
    transformer.encoder.layer = transformer.encoder.layer[:1]
    transformer.config.num_hidden_layers = 1
    model.save_pretrained(str(tmp_path / "one_layer"), create_model_card=False)
    return str(tmp_path / "one_layer")


@pytest.mark.slow
def test_a_run_tunes_the_base_that_dev_chooses(suite: Path, one_layer: str, tmp_path: Path) -> None:
    training = TrainingConfig(base_model=f"{DEFAULT_BASE_MODEL},{one_layer}", mode="linear")
    result = ace.run(data=suite, out=tmp_path / "run", training=training)
    bases = result.report["training"]["metrics"]["bases"]
    assert [model["name"] for model in bases["models"]] == [DEFAULT_BASE_MODEL, "one_layer"]
    chosen = DEFAULT_BASE_MODEL if bases["chosen"] == DEFAULT_BASE_MODEL else one_layer
    assert result.folder.read_manifest()["base_model"] == chosen
    page = result.folder.report.with_suffix(".html").read_text(encoding="utf-8")
    assert "Base models before tuning" in page
    again = ace.run(data=suite, out=tmp_path / "run", training=training)
    assert again.stages == ()


@pytest.mark.slow
def test_a_run_with_auto_records_what_was_not_compared(suite: Path, hub: Path, tmp_path: Path) -> None:
    training = TrainingConfig(base_model="auto", mode="linear", device="cpu")
    shutil.copytree(hub / "models--a--tiny", hub / "models--b--again")
    planned = ace.plan(ace.RunSettings(data=suite, out=tmp_path / "run", training=training))
    assert "3 base models are compared on dev first; the times are of a/tiny" in planned.data
    result = ace.run(data=suite, out=tmp_path / "run", training=training)
    bases = result.report["training"]["metrics"]["bases"]
    assert [model["name"] for model in bases["models"]] == ["a/tiny", "b/again"]
    assert result.folder.read_manifest()["base_model"] == bases["chosen"]
    page = result.folder.report.with_suffix(".html").read_text(encoding="utf-8")
    assert "Models on this machine that were not compared" in page
    assert f"<bdi>a/damaged</bdi>: {UNUSABLE}" in page
    assert ace.run(data=suite, out=tmp_path / "run", training=training).stages == ()
