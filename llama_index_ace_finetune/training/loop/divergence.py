"""Detects a diverging loss."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# A loss that has tripled, to that of a random choice among twenty documents, does not recover.
_STEPS = 10
_RISE = 3.0
_FLOOR = 3.0


@dataclass
class DivergenceMonitor:
    """The loss at the start of a training and now, each a mean over ten steps; 0 before there are ten."""

    first: float = 0.0
    latest: float = 0.0
    _window: deque[float] = field(default_factory=lambda: deque(maxlen=_STEPS))

    def diverges(self, loss: float) -> bool:
        """Record a step's loss; return whether the loss has tripled, to 3 or more, since the start."""
        self._window.append(loss)
        if len(self._window) == _STEPS:
            self.latest = sum(self._window) / _STEPS
            self.first = self.first or self.latest
        return self.latest > max(_FLOOR, _RISE * self.first)
