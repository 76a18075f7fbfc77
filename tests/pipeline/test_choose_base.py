"""Several base models, of which dev chooses the one that is tuned."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

import llama_index_ace_finetune as ace
from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import ModelError, TrainingError
from llama_index_ace_finetune.pipeline.choose_base import base_names, dev_of_training_data, with_one_base
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.training.config import TrainingConfig


def test_names_are_separated_by_commas(tmp_path: Path) -> None:
    assert base_names("a, b/c,,a") == ("a", "b/c")
    assert base_names("a") == ("a",)
    folder = tmp_path / "with,comma"
    folder.mkdir()
    assert base_names(str(folder)) == (str(folder),)


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
