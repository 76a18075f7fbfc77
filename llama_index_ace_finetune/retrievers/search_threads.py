"""SearchThreads: calls of a store within the deadline of a query, and off the event loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.retrievers.deadline import Deadline
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.fork import renew_after_fork

# Few, since each computing thread delays the event loop by some milliseconds; with a server, threads only wait.
_THREADS, _SERVER_THREADS = 2, 16
# Seconds that an asynchronous search may exceed its deadline before the caller stops waiting for it.
_SLACK = 0.1
_Result = TypeVar("_Result")
_Turns = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]


class SearchThreads:
    """A pool of threads for asynchronous searches, and the deadline of calls to the store.

    Args:
        store: that is called.
        timeout: seconds for a query; None sets no limit.
    """

    def __init__(self, store: MemoryStore, timeout: float | None) -> None:
        self._store, self._timeout = store, timeout
        self._pool = self._new_pool()
        self._turns = _Turns()
        renew_after_fork(self, SearchThreads._renew)

    def deadline(self) -> Deadline:
        """Return the deadline of a query that starts now."""
        return Deadline(self._timeout)

    def deadline_from_now(self) -> Deadline | None:
        """Return a deadline that includes the wait for a thread, which a slow server can make long; else None."""
        return None if self._store.embedded else self.deadline()

    def call(self, deadline: Deadline | None, function: Callable[[], _Result]) -> _Result:
        """Call the store within the deadline: a server that keeps sending never reaches a connection's timeout."""
        if self._store.embedded or deadline is None:
            return function()
        try:
            return deadline.call(function)
        except TimeoutError as error:
            raise self.timeout_error(deadline) from error

    async def wait_until(self, answer: asyncio.Future[_Result], deadline: Deadline | None) -> _Result:
        """Wait for a thread's result, including the time until a thread is free."""
        if deadline is None or deadline.remaining is None:
            return await answer
        try:
            return await asyncio.wait_for(answer, deadline.remaining + _SLACK)
        except (TimeoutError, asyncio.TimeoutError) as error:  # one class from Python 3.11 on
            raise self.timeout_error(deadline) from error

    def timeout_error(self, deadline: Deadline) -> StoreError:
        """Return the error of a store that did not answer in time."""
        return StoreError(
            f"The index in {self._store.location} did not answer within the {deadline.seconds:g} seconds of the query; "
            "check the server, or increase `timeout`."
        )

    def turn(self) -> AbstractAsyncContextManager[Any]:
        """Return a context in which few searches of an event loop compute at a time, the others waiting in order.

        Without it, queries that arrive together also finish together: the first waits for the last, and the event loop
        stands still while it hands out all results. With a server threads only wait, and there is no limit.
        """
        if not self._store.embedded:
            return nullcontext()
        return self._turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_THREADS))

    def start(self, function: Callable[..., _Result], *arguments: Any) -> asyncio.Future[_Result]:
        """Start a function in a thread of the pool."""
        context = contextvars.copy_context()  # it holds the instrumentation spans
        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, context.run, function, *arguments)
        except RuntimeError:  # the pool was closed with the store, whose error is clearer
            return asyncio.get_running_loop().run_in_executor(None, context.run, function, *arguments)

    def close(self) -> None:
        """Release the threads."""
        self._pool.shutdown(wait=False)

    def _new_pool(self) -> ThreadPoolExecutor:
        threads = _THREADS if self._store.embedded else _SERVER_THREADS
        return ThreadPoolExecutor(threads, thread_name_prefix="ace-finetune-search")

    def _renew(self) -> None:
        self._pool = self._new_pool()
        self._turns = _Turns()
