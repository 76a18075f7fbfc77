"""CircuitBreaker: skip a model for a cool-down after repeated failures."""

from __future__ import annotations

import time
from collections.abc import Callable

from llama_index_ace_finetune.utils.fork import fork_safe_lock


class CircuitBreaker:
    """Closed at first; opens for `cooldown` seconds after `failures` failures in a row; then one trial call decides.

    Args:
        failures: number of failures in a row that open it.
        cooldown: seconds until a trial call.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, *, failures: int, cooldown: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._cooldown, self._clock = failures, cooldown, clock
        self._lock = fork_safe_lock()
        self._failures = 0
        self._next_trial: float | None = None

    def allows(self) -> bool:
        """Whether to call now; while it is open, one caller per cool-down is allowed."""
        with self._lock:
            if self._next_trial is None:
                return True
            if self._clock() < self._next_trial:
                return False
            self._next_trial = self._clock() + self._cooldown
            return True

    def succeeded(self) -> None:
        """Close it."""
        with self._lock:
            self._failures, self._next_trial = 0, None

    def failed(self) -> None:
        """Count a failure."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit:
                self._next_trial = self._clock() + self._cooldown
