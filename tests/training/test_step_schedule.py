from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments, get_linear_schedule_with_warmup

from llama_index_ace_finetune.training.loop.budget import StepPlan
from llama_index_ace_finetune.training.loop.step_schedule import StepSchedule


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0), (10, 1), (40, 4), (1, 0)])
def test_learning_rate_is_that_of_transformers(steps: int, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = get_linear_schedule_with_warmup(optimizer, warmup, steps)  # type: ignore[no-untyped-call]
    schedule = StepSchedule(StepPlan(steps, 1.0), warmup_steps=warmup)
    for step in range(steps + 1):
        assert schedule.factor(step) == reference.get_last_lr()[0]
        optimizer.step()
        reference.step()


def test_learning_rate_of_a_shortened_training_falls_to_zero_at_its_end() -> None:
    plan = StepPlan(100, 100.0, shortened=((20, 60), (40, 50)))
    schedule = StepSchedule(plan, warmup_steps=10)
    unbroken = StepSchedule(replace(plan, shortened=()), warmup_steps=10)
    assert [schedule.factor(step) for step in range(21)] == [unbroken.factor(step) for step in range(21)]
    # 8/9 after 20 steps; half of it after 20 of the next 40; half of that after 5 of the last 10.
    assert schedule.factor(40) == pytest.approx(8 / 9 / 2)
    assert schedule.factor(45) == pytest.approx(8 / 9 / 4)
    assert schedule.factor(50) == 0.0
    falling = [schedule.factor(step) for step in range(10, 51)]
    assert falling == sorted(falling, reverse=True)


def test_learning_rate_of_a_training_that_ends_before_its_schedule() -> None:
    whole, part = StepPlan(40, 1.0), StepPlan(14, 1.0, scheduled=40)
    assert (whole.schedule_steps, part.schedule_steps, part.last_step) == (40, 40, 14)
    rates = [[StepSchedule(plan, warmup_steps=4).factor(step) for step in range(15)] for plan in (whole, part)]
    assert rates[0] == rates[1]
    assert rates[1][14] == pytest.approx(26 / 36)


def test_slow_machine_gets_fewer_steps_and_the_new_plan_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    kept: list[StepPlan] = []
    schedule = StepSchedule(
        StepPlan(100, 100.0, step_seconds=0.8, limit=100.0), warmup_steps=0, on_shortened=kept.append
    )
    args, state, control = TrainingArguments(output_dir=str(tmp_path)), TrainerState(max_steps=100), TrainerControl()
    schedule.on_train_begin(args, state, control)
    with caplog.at_level(logging.WARNING):
        while state.global_step < state.max_steps:
            state.global_step += 1
            slower = 1.0 if state.global_step <= 50 else 3.0
            schedule.on_step_begin(args, state, control)
            clock[0] += 0.8 * slower
            schedule.on_step_end(args, state, control)
            if state.global_step % 10 == 0:
                clock[0] += 2.0 * slower  # a dev evaluation
    # Three times as slow for the second half: the limit is kept but for the tolerated twentieth.
    assert 90 <= clock[0] <= 110
    assert state.max_steps == schedule.plan.last_step == kept[-1].last_step < 75
    assert kept[-1].shortened == schedule.plan.shortened
    assert f"ends after {state.max_steps} steps instead of" in caplog.text
    assert len(kept) <= 3
    assert schedule.factor(state.max_steps) == 0.0


def test_resumed_training_has_the_shortened_plan_and_its_earlier_steps_count_as_planned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = [1e6]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    schedule = StepSchedule(StepPlan(100, 100.0, step_seconds=0.8, limit=100.0, shortened=((40, 80),)), warmup_steps=0)
    args, state, control = TrainingArguments(output_dir=str(tmp_path)), TrainerState(max_steps=80), TrainerControl()
    state.global_step = 50
    schedule.on_train_begin(args, state, control)
    for _ in range(30):
        state.global_step += 1
        schedule.on_step_begin(args, state, control)
        clock[0] += 1.0
        schedule.on_step_end(args, state, control)
    assert (state.max_steps, schedule.plan.last_step) == (80, 80)
