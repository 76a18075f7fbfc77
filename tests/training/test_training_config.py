from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", -1e-5),
        ("learning_rate", math.nan),
        ("temperature", 0.0),
        ("train_split", 0.0),
        ("train_split", 1.0),
        ("warmup_steps", -1),
        ("hard_negatives", -1),
        ("eval_steps", 0),
        ("patience", 0),
        ("budget_minutes", 0.0),
        ("budget_minutes", -1.0),
        ("interpolation", ()),
        ("interpolation", (0.0, 1.0)),
        ("interpolation", (0.5, 1.5)),
        ("precision", "float16"),
        ("suspected_margin", 1.0),
        ("suspected_margin", math.inf),
        ("suspected_margin", math.nan),
        ("retention_loss", -0.1),
        ("retention_loss", math.nan),
        ("lora_rank", 0),
        ("late_interaction_weight", -0.1),
        ("late_interaction_weight", math.nan),
        ("late_interaction_weight", math.inf),
        ("late_interaction_temperature", 0.0),
        ("late_interaction_dimensions", 0),
        ("late_interaction_dimensions", 96),  # without a weight
        ("late_interaction_dimensions", 9.5),
        ("lora_alpha", 0.0),
        ("lora_dropout", 1.0),
        ("learning_rate", math.inf),
        ("epochs", 2.5),
        ("batch_size", 64.0),
        ("hard_negatives", 1.5),
        ("warmup_steps", True),
        ("patience", "3"),
        ("seed", None),
        ("seed", -1),
        ("max_seq_length", 0),
        ("max_seq_length", -5),
    ],
)
def test_invalid_setting_error_names_setting_value_and_rule(name: str, value: object) -> None:
    with pytest.raises(AceFinetuneError) as caught:
        TrainingConfig(**{name: value})  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"The training setting {name} is {value!r}; it must be ")
    assert message.endswith(".")


@pytest.mark.parametrize(
    "settings",
    [
        {"patience": None, "eval_steps": None},
        {"warmup_steps": 0, "hard_negatives": 0},
        {"budget_minutes": None},
        {"suspected_margin": -0.2, "retention_loss": 0.0},
        {"lora_rank": 8, "lora_alpha": 4.5, "lora_dropout": 0.0},
        {"late_interaction_weight": 0.5, "late_interaction_dimensions": 96},
    ],
)
def test_boundary_values_are_accepted(settings: dict[str, object]) -> None:
    config = TrainingConfig(**settings)  # type: ignore[arg-type]
    assert all(getattr(config, name) == value for name, value in settings.items())


def test_config_is_frozen_and_accepts_lists() -> None:
    config = TrainingConfig(interpolation=[0.5, 1.0])  # type: ignore[arg-type]
    assert config.interpolation == (0.5, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3  # type: ignore[misc]


def test_device_auto_equals_the_default() -> None:
    assert TrainingConfig(device="auto") == TrainingConfig()
    assert TrainingConfig(device="cpu").device == "cpu"


def test_saved_config_loads_unchanged(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, eval_steps=7, interpolation=(0.5,), device="cpu")
    config.save(tmp_path / "config.json")
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved.pop("format_version") == 2
    assert saved == config.to_dict()
    assert TrainingConfig(**saved) == config


def test_loads_json_and_yaml(tmp_path: Path) -> None:
    config = TrainingConfig(
        epochs=7,
        dimensions=(128,),
        report_to=("tensorboard",),
        budget_minutes=None,
        late_interaction_weight=0.5,
        late_interaction_dimensions=96,
    )
    config.save(tmp_path / "config.json")
    assert TrainingConfig.load(tmp_path / "config.json") == config
    (tmp_path / "config.yaml").write_text("epochs: 7\ndimensions: [128]\nlearning_rate: 2e-5\n", encoding="utf-8")
    assert TrainingConfig.load(tmp_path / "config.yaml") == TrainingConfig(
        epochs=7, dimensions=(128,), learning_rate=2e-5
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochs: [", "cannot be read"),
        ("- 3", "not a YAML mapping of names to values"),
        ("epoch: 3", "unknown name 'epoch'"),
        ("epochs: many", "epochs is 'many'; it must be a whole number"),
        ("learning_rate: high", "of the wrong type"),
        ("epochs: 0", "epochs is 0; it must be greater than 0"),
        ("base_model: 5", "base_model is 5; it must be a text"),
        ("symmetric: some", "symmetric is 'some'; it must be true or false"),
        ("epochs: " + "9" * 5000, "cannot be read"),
        ("interpolation: " + "[" * 500, "nested"),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(AceFinetuneError, match=message) as caught:
        TrainingConfig.load(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(AceFinetuneError, match="does not exist"):
        TrainingConfig.load(tmp_path / "none.yaml")
