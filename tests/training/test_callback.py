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


class Scripted:
    """A dev set whose scores are written down."""

    def __init__(self, *scores: float) -> None:
        self.left = list(scores)

    def score(self, encoder: Encoder) -> DevScores:
        value = self.left.pop(0)
        return DevScores(mrr=np.array([value]), means={"MRR@10": value})


def watch(minilm: Encoder, *scores: float, **options: Any) -> DevEvaluationCallback:
    options = {"base_scores": None, "eval_steps": None, "patience": None, **options}
    return DevEvaluationCallback(minilm, Scripted(*scores), **options)  # type: ignore[arg-type]


def at(step: int, total: int = 9) -> tuple[TrainingArguments, TrainerState, TrainerControl]:
    return TrainingArguments(use_cpu=True), TrainerState(global_step=step, max_steps=total, epoch=0.5), TrainerControl()


def test_the_history_holds_losses_and_dev_measures(minilm: Encoder) -> None:
    base = DevScores(mrr=np.array([0.2]), means={"MRR@10": 0.2})
    callback = watch(minilm, 0.3, base_scores=base)
    callback.on_log(*at(1), logs={"loss": 2.0})
    callback.on_log(*at(1), logs={"train_runtime": 1.0})
    callback.on_epoch_end(*at(2))
    assert callback.history == [
        {"step": 0, "epoch": 0.0, "MRR@10": 0.2},
        {"step": 1, "epoch": 0.5, "loss": 2.0},
        {"step": 2, "epoch": 0.5, "MRR@10": 0.3},
    ]
    minilm.model.eval()


def test_it_evaluates_every_so_many_steps_and_once_per_step(minilm: Encoder) -> None:
    callback = watch(minilm, 0.1, 0.2, 0.3, eval_steps=2)
    for step in (1, 2, 3, 4):
        callback.on_step_end(*at(step))
    callback.on_epoch_end(*at(4))
    callback.on_train_end(*at(4))
    assert [row["step"] for row in callback.history] == [2, 4]
    callback.on_train_end(*at(5))
    assert [row["step"] for row in callback.history] == [2, 4, 5]
    minilm.model.eval()


def test_patience_counts_evaluations_without_a_new_best(minilm: Encoder) -> None:
    callback = watch(minilm, 0.3, 0.2, 0.4, 0.4, 0.1, patience=2)
    stops = []
    for step in range(1, 6):
        arguments, state, control = at(step)
        callback.on_epoch_end(arguments, state, control)
        stops.append(control.should_training_stop)
    assert stops == [False, False, False, False, True]
    minilm.model.eval()


def test_what_had_stopped_early_is_not_gone_on_with(minilm: Encoder, tmp_path: Path) -> None:
    callback = watch(minilm, 0.3, 0.2, patience=1)
    arguments, state, control = at(1)
    arguments.output_dir = str(tmp_path)
    callback.on_epoch_end(arguments, state, control)
    state.global_step = 2
    callback.on_epoch_end(arguments, state, control)
    assert control.should_training_stop
    (tmp_path / "checkpoint-2").mkdir()
    callback.on_save(arguments, state, control)
    again = watch(minilm, patience=1)
    again.restore(tmp_path / "checkpoint-2")
    state.epoch = 2.0
    with pytest.raises(StoppedEarly):
        again.on_train_begin(arguments, state, control)
    minilm.model.eval()


def test_progress_tells_step_total_and_the_latest_figures(minilm: Encoder) -> None:
    told: list[tuple[int, int, dict[str, float]]] = []
    callback = watch(minilm, 0.25, eval_steps=2, progress=lambda *row: told.append(row))
    callback.on_log(*at(1), logs={"loss": 2.0})
    callback.on_step_end(*at(1))
    callback.on_step_end(*at(2))
    assert told == [(1, 9, {"loss": 2.0}), (2, 9, {"loss": 2.0, "dev_mrr": 0.25})]
    minilm.model.eval()


def test_rates_are_those_of_the_steps_that_were_counted(minilm: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0, 150.0, 152.0, 160.0])
    time = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr("llama_index_ace_finetune.training.loop.callback.time", time)
    told: list[dict[str, float]] = []
    callback = watch(minilm, 0.25, eval_steps=1, progress=lambda *row: told.append(row[2]))
    callback.on_train_begin(*at(0))
    callback.count(8, 1000)
    callback.on_step_end(*at(1))  # 2 s, and a look at dev that ends at 150
    callback.count(8, 3000)
    callback._dev.left.append(0.5)  # type: ignore[union-attr]
    callback.on_step_end(*at(2))  # 2 s
    assert [(row["examples/s"], row["tokens/s"]) for row in told] == [(4, 500), (4, 1000)]
    minilm.model.eval()


def test_what_is_looked_at_is_set_first_and_left_in_its_mode(minilm: Encoder) -> None:
    order: list[str] = []

    class Looking(Scripted):
        def score(self, encoder: Encoder) -> DevScores:
            order.append("look")
            return super().score(encoder)

    callback = DevEvaluationCallback(
        minilm,
        Looking(0.1),  # type: ignore[arg-type]
        base_scores=None,
        eval_steps=1,
        patience=None,
        before_evaluation=lambda: order.append("set"),
    )
    assert not minilm.model.training
    callback.on_step_end(*at(1))
    assert order == ["set", "look"]
    assert not minilm.model.training


def test_each_look_at_dev_sees_the_weights_of_the_moment(minilm: Encoder) -> None:
    settings = EncoderSettings(device="cpu", precision="bfloat16")
    encoder = Encoder(copy.deepcopy(minilm.model), name="x", fingerprint="x", settings=settings)
    evaluations = []

    class Looking(Scripted):
        def score(self, encoder: Encoder) -> DevScores:
            evaluations.append(encoder.encode_queries(["how often are the signing keys rotated?"]))
            return super().score(encoder)

    callback = DevEvaluationCallback(encoder, Looking(0.1, 0.2), base_scores=None, eval_steps=1, patience=None)  # type: ignore[arg-type]
    layers = [weight for name, weight in encoder.model.named_parameters() if ".dense.weight" in name]
    optimiser = torch.optim.AdamW(layers, lr=1e-2, fused=True)
    for step in (1, 2):
        callback.on_step_end(*at(step))
        for weight in layers:
            weight.grad = torch.randn_like(weight)
        optimiser.step()
    assert float(np.sum(evaluations[0] * evaluations[1])) < 0.999
