"""Time limits: for a single call, and for a whole query."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

_Result = TypeVar("_Result")


class Deadline:
    """A time limit that starts at construction; None means no limit."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, 0 after it; None without a limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def is_nearly_over(self) -> bool:
        """Whether less than a tenth of the time is left, too little to start anything."""
        return self.seconds is not None and self.remaining is not None and self.remaining < self.seconds / 10

    def call(self, function: Callable[[], _Result], *, fraction: float = 1.0) -> _Result:
        """Return the function's result, or raise TimeoutError after a `fraction` of the remaining seconds."""
        remaining = self.remaining
        if remaining == 0:
            raise TimeoutError(f"none of the {self.seconds:g} seconds are left")
        return call_with_timeout(None if remaining is None else fraction * remaining, function)


def call_with_timeout(seconds: float | None, function: Callable[[], _Result]) -> _Result:
    """Return the function's result, or raise TimeoutError after `seconds`; None sets no limit.

    A call that timed out continues in its thread, and its result is dropped.
    """
    if seconds is None:
        return function()
    result: Future[_Result] = Future()
    context = contextvars.copy_context()  # it holds the instrumentation spans

    def work() -> None:
        try:
            result.set_result(context.run(function))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True, name="ace-finetune-timed").start()
    try:
        return result.result(seconds)
    except (TimeoutError, FutureTimeoutError) as error:  # one class from Python 3.11 on
        if result.done():  # the function raised it
            raise
        raise TimeoutError(f"it took longer than {seconds:g} seconds") from error
