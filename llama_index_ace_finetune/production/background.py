"""A call in a separate thread."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def in_thread(function: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
    """Start a call in a daemon thread, with the caller's context; return its future result."""
    future: Future[_Result] = Future()
    context = contextvars.copy_context()  # it holds the instrumentation spans

    def work() -> None:
        try:
            future.set_result(context.run(function, *arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="ace-finetune-search").start()
    return future
