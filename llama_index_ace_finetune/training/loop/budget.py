"""Fit the number of training steps to a time budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

_REMINING_PART = 0.2

# Parts of the limit by which the rest of a training may exceed it before steps are cut: early ones are few to judge by.
_TOLERANCE = 0.05
_EARLY_TOLERANCE = 0.25
_EARLY = 0.25


@dataclass(frozen=True, slots=True)
class EvaluationCost:
    """Seconds beside the steps: per dev evaluation during training, for the final selection, per re-mining."""

    each: float = 0.0
    after: float = 0.0
    remining: float = 0.0


class DoesNotFitError(Exception):
    """The budget allows too few steps; `seconds` is what the fewest would take, by default one step."""

    def __init__(self, seconds: float, fewest: str = "one step takes") -> None:
        super().__init__(f"{fewest} about {seconds:.0f} s with dev evaluations")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Planned optimiser steps.

    Attributes:
        steps: of the training.
        seconds: that they take, with dev evaluations, re-minings and the final selection.
        remine: how often negatives are mined again.
        step_seconds: of one step.
        after: part of `seconds` for the final selection.
        limit: seconds that may be taken; None for no limit.
        shortened: corrections under way, each (after which step, new last step), ascending.
        scheduled: at which step the learning rate would be zero, if the training ends before that; 0 for the last one.
    """

    steps: int
    seconds: float
    remine: int = 0
    step_seconds: float = 0.0
    after: float = 0.0
    limit: float | None = None
    shortened: tuple[tuple[int, int], ...] = ()
    scheduled: int = 0

    @property
    def planned_schedule(self) -> int:
        """The step at which the learning rate would be zero, without the corrections."""
        return self.scheduled or self.steps

    @property
    def schedule_steps(self) -> int:
        """The step at which the learning rate would be zero."""
        return self.shortened[-1][1] if self.shortened else self.planned_schedule

    @property
    def last_step(self) -> int:
        """The number of steps after the corrections."""
        return self.shortened[-1][1] if self.shortened else self.steps

    def seconds_of(self, steps: int) -> float:
        """Planned seconds of some steps, with their part of the dev evaluations and re-minings."""
        return steps * (self.seconds - self.after) / self.steps

    def fitting(self, done: int, *, spent: float, slower: float) -> int:
        """Return the last step that keeps the limit: `last_step`, or an earlier one, after `done`.

        An overrun of 5% is accepted, and of 25% in the first quarter, where few steps have been measured.

        Args:
            done: steps.
            spent: seconds.
            slower: how much longer than planned all else will take: 1 is as planned.
        """
        if self.limit is None:
            return self.last_step
        left = self.limit - spent - slower * self.after
        tolerated = self.limit * (_EARLY_TOLERANCE if done < _EARLY * self.steps else _TOLERANCE)
        if slower * self.seconds_of(self.last_step - done) <= left + tolerated:
            return self.last_step
        return max(done + 1, done + int(left / (slower * self.seconds_of(1))))

    @property
    def remine_after(self) -> tuple[int, ...]:
        """The steps after which negatives are mined again, at equal distances."""
        return tuple(self.steps * number // (self.remine + 1) for number in range(1, self.remine + 1))

    @classmethod
    def within(
        cls,
        limit: float | None,
        *,
        steps: int,
        step_seconds: float,
        evaluate_every: int,
        evaluation_cost: EvaluationCost,
        remine: int = 0,
    ) -> StepPlan:
        """Plan `steps`, or as many of them as fit into `limit`, at least one.

        Args:
            limit: seconds in total; None for no limit. If the final selection would take more than half of it, half
                still goes to steps.
            steps: of all epochs.
            step_seconds: of one step.
            evaluate_every: steps between two dev evaluations.
            evaluation_cost: seconds of the evaluations and of a re-mining.
            remine: re-minings; fewer are planned where they would take more than a fifth of the limit, or be less than
                three steps apart.
        """
        if limit is not None and evaluation_cost.remining > 0:
            remine = min(remine, int(_REMINING_PART * limit / evaluation_cost.remining))

        def taken(count: int) -> float:
            evaluations = math.ceil(count / evaluate_every) * evaluation_cost.each + evaluation_cost.after
            return count * step_seconds + evaluations + min(remine, count // 3) * evaluation_cost.remining

        if limit is not None and taken(steps) > limit:
            beside = evaluation_cost.after + evaluation_cost.each + remine * evaluation_cost.remining
            room = max(limit - beside, limit / 2)
            steps = min(steps, max(1, int(room / (step_seconds + evaluation_cost.each / evaluate_every))))
        seconds = taken(steps)
        allowed = None if limit is None else max(limit, seconds)
        return cls(
            steps,
            seconds,
            min(remine, steps // 3),
            step_seconds=step_seconds,
            after=evaluation_cost.after,
            limit=allowed,
        )
