"""How many steps a training takes, and how long."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LookSeconds:
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
        cls, limit: float | None, *, steps: int, step_seconds: float, look_every: int, looks: LookSeconds
    ) -> StepPlan:
        """Plan `steps`, or as many of them as `limit` leaves time for, at least one.

        Args:
            limit: seconds in all; None knows no limit. Where what comes after the last step would take more than half
                of it, half goes to steps all the same, since without them there is nothing to look at.
            steps: wished for.
            step_seconds: of one step.
            look_every: steps between two looks at dev.
            looks: seconds of these.
        """

        def taken(count: int) -> float:
            return count * step_seconds + math.ceil(count / look_every) * looks.each + looks.after

        if limit is not None and taken(steps) > limit:
            room = max(limit - looks.after - looks.each, limit / 2)
            steps = min(steps, max(1, int(room / (step_seconds + looks.each / look_every))))
        return cls(steps, taken(steps))
