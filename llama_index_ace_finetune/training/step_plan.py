"""How many steps a training takes, and how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Planned optimiser steps, and the seconds that they will take by a measured step; 0 where none was measured."""

    steps: int
    seconds: float
