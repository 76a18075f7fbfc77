from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.loop.callback import DevEvaluationCallback, StoppedEarly
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores


class ScriptedDevSet:
    """A dev set that returns the given scores in turn."""

    def __init__(self, *scores: float) -> None:
        self.remaining = list(scores)

    def score(self, encoder: Encoder) -> DevScores:
        value = self.remaining.pop(0)
        return DevScores(mrr=np.array([value]), means={"MRR@10": value})


def dev_callback(minilm: Encoder, *scores: float, **options: Any) -> DevEvaluationCallback:
    options = {"base_scores": None, "eval_steps": None, "patience": None, **options}
    return DevEvaluationCallback(minilm, ScriptedDevSet(*scores), **options)  # type: ignore[arg-type]


def arguments_at(step: int, total: int = 9) -> tuple[TrainingArguments, TrainerState, TrainerControl]:
    return TrainingArguments(use_cpu=True), TrainerState(global_step=step, max_steps=total, epoch=0.5), TrainerControl()


def test_history_holds_losses_and_dev_metrics(minilm: Encoder) -> None:
    base = DevScores(mrr=np.array([0.2]), means={"MRR@10": 0.2})
    callback = dev_callback(minilm, 0.3, base_scores=base)
    callback.on_log(*arguments_at(1), logs={"loss": 2.0})
    callback.on_log(*arguments_at(1), logs={"train_runtime": 1.0})
    callback.on_epoch_end(*arguments_at(2))
    assert callback.history == [
        {"step": 0, "epoch": 0.0, "MRR@10": 0.2},
        {"step": 1, "epoch": 0.5, "loss": 2.0},
        {"step": 2, "epoch": 0.5, "MRR@10": 0.3},
    ]
    minilm.model.eval()


def test_evaluates_every_n_steps_and_at_most_once_per_step(minilm: Encoder) -> None:
    callback = dev_callback(minilm, 0.1, 0.2, 0.3, eval_steps=2)
    for step in (1, 2, 3, 4):
        callback.on_step_end(*arguments_at(step))
    callback.on_epoch_end(*arguments_at(4))
    callback.on_train_end(*arguments_at(4))
    assert [row["step"] for row in callback.history] == [2, 4]
    callback.on_train_end(*arguments_at(5))
    assert [row["step"] for row in callback.history] == [2, 4, 5]
    minilm.model.eval()


def test_patience_counts_evaluations_without_a_new_best(minilm: Encoder) -> None:
    callback = dev_callback(minilm, 0.3, 0.2, 0.4, 0.4, 0.1, patience=2)
    stops = []
    for step in range(1, 6):
        arguments, state, control = arguments_at(step)
        callback.on_epoch_end(arguments, state, control)
        stops.append(control.should_training_stop)
    assert stops == [False, False, False, False, True]
    minilm.model.eval()


def test_resume_after_early_stopping_raises(minilm: Encoder, tmp_path: Path) -> None:
    callback = dev_callback(minilm, 0.3, 0.2, patience=1)
    arguments, state, control = arguments_at(1)
    arguments.output_dir = str(tmp_path)
    callback.on_epoch_end(arguments, state, control)
    state.global_step = 2
    callback.on_epoch_end(arguments, state, control)
    assert control.should_training_stop
    (tmp_path / "checkpoint-2").mkdir()
    callback.on_save(arguments, state, control)
    resumed = dev_callback(minilm, patience=1)
    resumed.restore(tmp_path / "checkpoint-2")
    state.epoch = 2.0
    with pytest.raises(StoppedEarly):
        resumed.on_train_begin(arguments, state, control)
    minilm.model.eval()


def test_progress_reports_step_total_and_latest_figures(minilm: Encoder) -> None:
    reported: list[tuple[int, int, dict[str, float]]] = []
    callback = dev_callback(minilm, 0.25, eval_steps=2, progress=lambda *row: reported.append(row))
    logged: list[dict[str, float]] = []
    callback.log = logged.append
    callback.on_log(*arguments_at(1), logs={"loss": 2.0})
    callback.on_step_end(*arguments_at(1))
    callback.on_step_end(*arguments_at(2))
    assert logged == [{"eval_dev_MRR@10": 0.25}]
    assert reported == [(1, 9, {"loss": 2.0}), (2, 9, {"loss": 2.0, "dev_mrr": 0.25})]
    minilm.model.eval()


def test_throughput_excludes_dev_evaluation_time(minilm: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0, 150.0, 152.0, 160.0])
    time = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr("llama_index_ace_finetune.training.loop.callback.time", time)
    reported: list[dict[str, float]] = []
    callback = dev_callback(minilm, 0.25, eval_steps=1, progress=lambda *row: reported.append(row[2]))
    callback.on_train_begin(*arguments_at(0))
    callback.count(8, 1000)
    callback.on_step_end(*arguments_at(1))  # 2 s, then a dev evaluation that ends at 150
    callback.count(8, 3000)
    callback._dev.remaining.append(0.5)  # type: ignore[union-attr]
    callback.on_step_end(*arguments_at(2))  # 2 s
    assert [(row["examples/s"], row["tokens/s"]) for row in reported] == [(4, 500), (4, 1000)]
    minilm.model.eval()


def test_before_evaluation_runs_first_and_the_eval_mode_is_kept(minilm: Encoder) -> None:
    order: list[str] = []

    class RecordingDevSet(ScriptedDevSet):
        def score(self, encoder: Encoder) -> DevScores:
            order.append("score")
            return super().score(encoder)

    callback = DevEvaluationCallback(
        minilm,
        RecordingDevSet(0.1),  # type: ignore[arg-type]
        base_scores=None,
        eval_steps=1,
        patience=None,
        before_evaluation=lambda: order.append("set"),
    )
    assert not minilm.model.training
    callback.on_step_end(*arguments_at(1))
    assert order == ["set", "score"]
    assert not minilm.model.training


def test_each_dev_evaluation_uses_the_current_weights(minilm: Encoder) -> None:
    settings = EncoderSettings(device="cpu", precision="bfloat16")
    encoder = Encoder(copy.deepcopy(minilm.model), name="x", fingerprint="x", settings=settings)
    evaluations = []

    class RecordingDevSet(ScriptedDevSet):
        def score(self, encoder: Encoder) -> DevScores:
            evaluations.append(encoder.encode_queries(["how often are the signing keys rotated?"]))
            return super().score(encoder)

    callback = DevEvaluationCallback(encoder, RecordingDevSet(0.1, 0.2), base_scores=None, eval_steps=1, patience=None)  # type: ignore[arg-type]
    layers = [weight for name, weight in encoder.model.named_parameters() if ".dense.weight" in name]
    optimiser = torch.optim.AdamW(layers, lr=1e-2, fused=True)
    for step in (1, 2):
        callback.on_step_end(*arguments_at(step))
        for weight in layers:
            weight.grad = torch.randn_like(weight)
        optimiser.step()
    assert float(np.sum(evaluations[0] * evaluations[1])) < 0.999
