"""The learning rate of each step, and fewer steps where they take longer than planned."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llama_index_ace_finetune.training.loop.budget import StepPlan

logger = logging.getLogger(__name__)

_FEWEST_MEASURED = 5


class StepSchedule(TrainerCallback):
    """Linear warm-up, then linear decay to zero at the end of a schedule; keeps the time limit of a plan.

    The time of a step is measured before a training; if the machine gets slower under way, the rest of the training
    gets fewer steps, and the learning rate decays from where it is to zero at the new last step.

    Args:
        plan: of the training; `shortened` holds the corrections of an interrupted one.
        warmup_steps: steps in which the learning rate rises.
        on_shortened: called with the new plan.
    """

    def __init__(
        self, plan: StepPlan, *, warmup_steps: int, on_shortened: Callable[[StepPlan], object] = lambda plan: None
    ) -> None:
        self.plan = plan
        self._warmup_steps = warmup_steps
        self._on_shortened = on_shortened
        self._begun = self._step_begun = 0.0
        self._measured: list[float] = []

    def factor(self, step: int) -> float:
        """Return the learning rate after `step` steps, as a part of the highest."""
        return self._factor(step, self.plan.shortened)

    def _factor(self, step: int, shortened: tuple[tuple[int, int], ...]) -> float:
        if step < self._warmup_steps:
            return step / self._warmup_steps
        if not shortened:
            start, end, highest = self._warmup_steps, self.plan.planned_schedule, 1.0
        else:
            start, end = shortened[-1]
            if step <= start:
                return self._factor(step, shortened[:-1])
            highest = self._factor(start, shortened[:-1])
        return highest * max(0.0, (end - step) / max(1, end - start))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Start the clock; the steps before an interruption count as planned."""
        self._begun = time.perf_counter() - self.plan.seconds_of(state.global_step)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock of a step."""
        self._step_begun = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Plan fewer steps if the rest would take longer than the limit."""
        now, plan, done = time.perf_counter(), self.plan, state.global_step
        self._measured.append(now - self._step_begun)
        if len(self._measured) < _FEWEST_MEASURED or done >= plan.last_step or plan.step_seconds <= 0:
            return
        last = plan.fitting(done, spent=now - self._begun, slower=fmean(self._measured) / plan.step_seconds)
        if last >= plan.last_step:
            return
        logger.warning(
            "steps take longer than planned, so this training ends after %d steps instead of %d", last, plan.last_step
        )
        # What comes next is measured by itself, as the machine may have become slower a moment ago.
        self._measured.clear()
        self.plan = replace(plan, shortened=(*plan.shortened, (done, last)))
        state.max_steps = last
        self._on_shortened(self.plan)
