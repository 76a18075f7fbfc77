from __future__ import annotations

import threading
import time

import pytest

from llama_index_ace_finetune.retrievers.circuit_breaker import CircuitBreaker
from llama_index_ace_finetune.retrievers.deadline import call_with_timeout


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestCircuitBreaker:
    def test_opens_cools_down_tries_once_and_closes(self) -> None:
        clock = Clock()
        breaker = CircuitBreaker(failures=2, cooldown=10, clock=clock)
        breaker.failed()
        assert breaker.allows()
        breaker.failed()
        assert not breaker.allows()
        clock.now = 10
        assert breaker.allows()  # the trial
        assert not breaker.allows()  # of one caller only
        breaker.failed()
        clock.now = 19.9
        assert not breaker.allows()
        clock.now = 20
        assert breaker.allows()
        breaker.succeeded()
        assert all(breaker.allows() for _ in range(3))

    def test_only_failures_in_a_row_count(self) -> None:
        breaker = CircuitBreaker(failures=2, cooldown=10, clock=Clock())
        for _ in range(5):
            breaker.failed()
            breaker.succeeded()
        assert breaker.allows()

    def test_trial_that_never_ends_does_not_block_the_next(self) -> None:
        clock = Clock()
        breaker = CircuitBreaker(failures=1, cooldown=10, clock=clock)
        breaker.failed()
        clock.now = 10
        assert breaker.allows()
        clock.now = 20
        assert breaker.allows()


class TestCallWithTimeout:
    def test_results_and_errors_are_passed_on(self) -> None:
        assert call_with_timeout(5, lambda: 3) == call_with_timeout(None, lambda: 3) == 3
        for seconds in (5, None):
            with pytest.raises(KeyError, match="mine"):
                call_with_timeout(seconds, lambda: {}["mine"])

    def test_timeout_is_kept(self) -> None:
        release = threading.Event()
        start = time.perf_counter()
        with pytest.raises(TimeoutError, match=r"longer than 0\.05 seconds"):
            call_with_timeout(0.05, lambda: release.wait(5))
        assert time.perf_counter() - start < 2
        release.set()

    def test_timeout_error_of_the_function_is_passed_on(self) -> None:
        def fail() -> None:
            raise TimeoutError("theirs")

        with pytest.raises(TimeoutError, match="theirs"):
            call_with_timeout(5, fail)
