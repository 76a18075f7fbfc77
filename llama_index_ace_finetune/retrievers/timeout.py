"""A time limit for a call that cannot be interrupted."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

_Result = TypeVar("_Result")


def within(seconds: float | None, function: Callable[[], _Result]) -> _Result:
    """Return what the function returns, or raise TimeoutError after `seconds`; None waits for as long as it takes.

    A call that ran out of time continues in its thread, and what it returns is dropped.
    """
    if seconds is None:
        return function()
    result: Future[_Result] = Future()
    context = contextvars.copy_context()  # instrumentation spans live there

    def work() -> None:
        try:
            result.set_result(context.run(function))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True, name="ace-finetune-timed").start()
    try:
        return result.result(seconds)
    except (TimeoutError, FutureTimeoutError) as error:  # one class from Python 3.11 on
        if result.done():  # its own
            raise
        raise TimeoutError(f"it took longer than {seconds:g} seconds") from error
