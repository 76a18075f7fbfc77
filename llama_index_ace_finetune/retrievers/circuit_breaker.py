"""Leaving something alone for a while after it failed several times in a row."""

from __future__ import annotations

import time
from collections.abc import Callable

from llama_index_ace_finetune.utils.fork import fork_safe_lock


class CircuitBreaker:
    """Closed at first; open for `pause` seconds after `failures` failures in a row; then one trial decides.

    Args:
        failures: how many in a row open it.
        pause: seconds without a trial.
        clock: seconds that only go up.
    """

    def __init__(self, *, failures: int, pause: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._pause, self._clock = failures, pause, clock
        self._lock = fork_safe_lock()
        self._failures = 0
        self._next_trial: float | None = None

    def allows(self) -> bool:
        """Whether to try now; while it is open one caller per pause is let through."""
        with self._lock:
            if self._next_trial is None:
                return True
            if self._clock() < self._next_trial:
                return False
            self._next_trial = self._clock() + self._pause
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
                self._next_trial = self._clock() + self._pause
