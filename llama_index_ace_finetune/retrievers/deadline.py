"""The time that one query may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from llama_index_ace_finetune.retrievers.timeout import within

_Result = TypeVar("_Result")


class Deadline:
    """Seconds that count from its construction; None never ends."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """Seconds until it ends, 0 where it has ended; None where it never does."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def is_nearly_over(self) -> bool:
        """Whether less than a tenth is left, with which nothing new should begin."""
        return self.seconds is not None and self.left is not None and self.left < self.seconds / 10

    def call(self, function: Callable[[], _Result], *, share: float = 1.0) -> _Result:
        """Return what the function returns, or raise TimeoutError once `share` of the seconds left are over."""
        left = self.left
        if left == 0:
            raise TimeoutError(f"nothing was left of {self.seconds:g} seconds")
        return within(None if left is None else share * left, function)
