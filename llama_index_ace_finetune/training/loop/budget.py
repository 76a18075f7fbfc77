"""How many steps a training takes, and how long."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvaluationCost:
    """What dev costs a training: seconds of each look on the way, and of all that is looked at after the last step."""

    each: float = 0.0
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Planned optimiser steps, and the seconds that they will take, with every look at dev, by measured parts."""

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
        """Plan `steps`, or as many of them as `limit` leaves time for, at least one.

        Args:
            limit: seconds in all; None knows no limit. Where what comes after the last step would take more than half
                of it, half goes to steps all the same, since without them there is nothing to look at.
            steps: wished for.
            step_seconds: of one step.
            evaluate_every: steps between two looks at dev.
            evaluation_cost: seconds of these.
        """

        def taken(count: int) -> float:
            return (
                count * step_seconds + math.ceil(count / evaluate_every) * evaluation_cost.each + evaluation_cost.after
            )

        if limit is not None and taken(steps) > limit:
            room = max(limit - evaluation_cost.after - evaluation_cost.each, limit / 2)
            steps = min(steps, max(1, int(room / (step_seconds + evaluation_cost.each / evaluate_every))))
        return cls(steps, taken(steps))
