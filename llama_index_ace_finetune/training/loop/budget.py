"""Fit the number of training steps to a time budget."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvaluationCost:
    """Seconds spent on dev: per evaluation during training, and for the final selection."""

    each: float = 0.0
    after: float = 0.0


class DoesNotFitError(Exception):
    """The budget allows too few steps; `seconds` is what the fewest would take, by default one step."""

    def __init__(self, seconds: float, fewest: str = "one step takes") -> None:
        super().__init__(f"{fewest} about {seconds:.0f} s with dev evaluations")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Planned optimiser steps, and the seconds that they take with all dev evaluations."""

    steps: int
    seconds: float

    @classmethod
    def within(
        cls,
        limit: float | None,
        *,
        steps: int,
        step_seconds: float,
        evaluate_every: int,
        evaluation_cost: EvaluationCost,
    ) -> StepPlan:
        """Plan `steps`, or as many of them as fit into `limit`, at least one.

        Args:
            limit: seconds in total; None for no limit. If the final selection would take more than half of it, half
                still goes to steps.
            steps: of all epochs.
            step_seconds: of one step.
            evaluate_every: steps between two dev evaluations.
            evaluation_cost: seconds of the evaluations.
        """

        def taken(count: int) -> float:
            return (
                count * step_seconds + math.ceil(count / evaluate_every) * evaluation_cost.each + evaluation_cost.after
            )

        if limit is not None and taken(steps) > limit:
            room = max(limit - evaluation_cost.after - evaluation_cost.each, limit / 2)
            steps = min(steps, max(1, int(room / (step_seconds + evaluation_cost.each / evaluate_every))))
        return cls(steps, taken(steps))
