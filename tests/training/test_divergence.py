from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformerTrainer
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.loop import fit
from llama_index_ace_finetune.training.loop.callback import last_checkpoint
from llama_index_ace_finetune.training.loop.divergence import DivergenceMonitor
from llama_index_ace_finetune.training.loop.loggers import logger_callbacks

QUICK: dict[str, Any] = {
    "mode": "full",
    "epochs": 8,
    "budget_minutes": None,
    "batch_size": 4,
    "hard_negatives": 1,
    "max_seq_length": 32,
    "precision": "float32",
    "device": "cpu",
}


def tuner(data: TrainingData, output: Path, base_model: str, **options: Any) -> EmbeddingFineTuner:
    config = TrainingConfig(output_dir=str(output), base_model=base_model, **{**QUICK, **options})
    made = EmbeddingFineTuner(config, checkpoints=output.with_name("checkpoints"))
    made.load_training_data(dataclasses.replace(data, examples=data.examples[:8]))
    made.initialize_model()
    return made


# ------------------------------------------------------------------------------------------- divergence of the loss


def diverging_steps(losses: list[float]) -> list[int]:
    monitor = DivergenceMonitor()
    return [step for step, loss in enumerate(losses, start=1) if monitor.diverges(loss)]


def test_a_loss_that_triples_for_ten_steps_diverges() -> None:
    # The mean of ten passes 4.5 once eight of them are at 5.2: (2 * 1.5 + 8 * 5.2) / 10 = 4.46, with nine 4.83.
    assert diverging_steps([1.5] * 10 + [5.2] * 10)[0] == 19


@pytest.mark.parametrize(
    "losses",
    [
        [5.0] * 10 + [0.5] * 30,
        [0.1] * 10 + [0.9] * 30,
        [1.5] * 10 + [9.0] * 3 + [1.0] * 30,
        [2.0] * 10 + [5.9] * 30,
        [50.0] * 9,
    ],
    ids=["falls", "rises but stays low", "brief spike", "less than triple", "too few steps"],
)
def test_other_losses_do_not_diverge(losses: list[float]) -> None:
    assert diverging_steps(losses) == []


# ------------------------------------------------------------------------------------------- checkpoints and errors


TRAINED: list[list[int]] = []


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Losses by the number of completed steps; 1 by default. Weights do not change.

    `TRAINED` records the examples of each step.
    """
    losses: dict[int, float] = {}
    TRAINED.clear()

    def step(self: SentenceTransformerTrainer, _model: Any, inputs: dict[str, Any], *_: Any) -> torch.Tensor:
        TRAINED.append(inputs["example"].tolist())
        return torch.tensor(losses.get(self.state.global_step, 1.0))

    monkeypatch.setattr(SentenceTransformerTrainer, "training_step", step)
    return losses


def test_nan_loss_keeps_only_the_checkpoint_before_it(
    training_data: TrainingData,
    one_layer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scripted: dict[int, float],
) -> None:
    monkeypatch.setattr(fit, "_SAVED_SECONDS", 0.001)  # after every step
    scripted[3] = math.nan
    with pytest.raises(TrainingError, match=r"The loss is nan at step 4 \(queries .*\), and '.*checkpoint-2' is the"):
        tuner(training_data, tmp_path / "model", one_layer).train()
    kept = last_checkpoint(tmp_path / "checkpoints" / "full")
    assert kept is not None
    assert kept.name == "checkpoint-2"
    assert not (tmp_path / "checkpoints" / "full" / "checkpoint-3").exists()
    assert not (tmp_path / "model").exists()


def test_nan_loss_names_the_queries_of_its_step(
    training_data: TrainingData, one_layer: str, tmp_path: Path, scripted: dict[int, float]
) -> None:
    scripted[2] = math.nan  # the first of two steps of an epoch: the next batch is prefetched
    with pytest.raises(TrainingError) as caught:
        tuner(training_data, tmp_path / "model", one_layer).train()
    named = [training_data.examples[number].query_id for number in TRAINED[2]]
    assert f"step 3 (queries {', '.join(named[:3])} and 1 more)" in str(caught.value)


def test_nan_weights_at_a_dev_evaluation_raise_and_are_not_saved(
    training_data: TrainingData, one_layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "_SAVED_SECONDS", 0.001)  # after every step

    def step(self: SentenceTransformerTrainer, model: Any, *_: Any) -> torch.Tensor:
        if self.state.global_step == 3:
            next(model.parameters()).data.fill_(math.nan)
        return torch.tensor(1.0)

    monkeypatch.setattr(SentenceTransformerTrainer, "training_step", step)
    config = TrainingConfig(output_dir=str(tmp_path / "model"), base_model=one_layer, **QUICK)
    made = EmbeddingFineTuner(config, checkpoints=tmp_path / "checkpoints")
    dev = tuple(one for one in training_data.examples if one.split == "dev")
    made.load_training_data(dataclasses.replace(training_data, examples=(*training_data.examples[:8], *dev)))
    made.initialize_model()
    with pytest.raises(TrainingError, match=r"become NaN at step 4 \(queries .*checkpoint-3' is the last"):
        made.train()
    assert not (tmp_path / "checkpoints" / "full" / "checkpoint-4").exists()


@pytest.mark.parametrize(("eval_steps", "steps"), [(1, 2), (None, 4)])
def test_resume_after_early_stopping_takes_no_more_steps(
    training_data: TrainingData,
    one_layer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scripted: dict[int, float],
    eval_steps: int | None,
    steps: int,
) -> None:
    monkeypatch.setattr(fit, "_SAVED_SECONDS", 0.001)  # after every step
    dev = tuple(one for one in training_data.examples if one.split == "dev")
    data = dataclasses.replace(training_data, examples=(*training_data.examples[:8], *dev))

    def train() -> dict[str, Any]:
        options = {**QUICK, "patience": 1, "eval_steps": eval_steps}
        config = TrainingConfig(output_dir=str(tmp_path / "model"), base_model=one_layer, **options)
        made = EmbeddingFineTuner(config, checkpoints=tmp_path / "checkpoints")
        made.load_training_data(data)
        made.initialize_model()
        return made.train()

    # The weights do not change, so the second evaluation finds no improvement.
    assert train()["total_steps"] == len(TRAINED) == steps
    TRAINED.clear()
    assert train()["total_steps"] == steps
    assert TRAINED == []


def test_diverging_loss_raises_with_step_and_queries(
    training_data: TrainingData, one_layer: str, tmp_path: Path, scripted: dict[int, float]
) -> None:
    scripted.update(dict.fromkeys(range(10, 30), 6.0))
    made = tuner(training_data, tmp_path / "model", one_layer, epochs=15)
    with pytest.raises(TrainingError, match=r"has risen from 1 to 3.5 at step 15 \(queries .*\); lower the learning"):
        made.train()
    assert not (tmp_path / "model").exists()


# ------------------------------------------------------------------------------------------------ loggers


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("paper", r"names 'paper', which is not a logger; choose from .*tensorboard.*wandb"),
        ("codecarbon", "is not installed; run"),
    ],
)
def test_unavailable_logger_is_refused_before_training(name: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as refusal:
        EmbeddingFineTuner(TrainingConfig(report_to=(name,))).initialize_model()
    assert "\n" not in str(refusal.value)


def test_wandb_project_is_the_package_s_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Logger(TrainerCallback):
        def __init__(self) -> None:
            seen.append(os.environ["WANDB_PROJECT"])

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Logger)
    for given in (None, "mine"):
        monkeypatch.delenv("WANDB_PROJECT", raising=False)
        if given:
            monkeypatch.setenv("WANDB_PROJECT", given)
        logger_callbacks(TrainingConfig(report_to=("wandb",)))
    assert seen == ["llama-index-ace-finetune", "mine"]


def test_tensorboard_logs_are_written_next_to_the_model(
    training_data: TrainingData, one_layer: str, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    os.environ.pop("TENSORBOARD_LOGGING_DIR", None)
    made = tuner(training_data, tmp_path / "model", one_layer, epochs=1, report_to=("tensorboard",))
    made.load_training_data(training_data)  # with its dev queries
    made.train()
    assert len(list((tmp_path / "model-logs").glob("events.out.tfevents.*"))) == 1
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "model-logs"))
    events.Reload()
    assert {"train/loss", "eval/dev_MRR@10", "eval/dev_Success@1"} <= set(events.Tags()["scalars"])
    assert 0 < events.Scalars("eval/dev_MRR@10")[-1].value <= 1
