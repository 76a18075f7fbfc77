"""Latency of single calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

_WARM_UP = 3
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Latency:
    """Median and 95th percentile over N calls, in milliseconds."""

    p50_ms: float
    p95_ms: float
    calls: int

    @classmethod
    def of(cls, call: Callable[[_Item], object], items: Sequence[_Item]) -> Latency | None:
        """Time one call per item, one after the other, after three warm-up calls; None without an item."""
        if not items:
            return None
        for item in items[:_WARM_UP]:
            call(item)
        seconds = []
        for item in items:
            start = time.perf_counter()
            call(item)
            seconds.append(time.perf_counter() - start)
        return cls.of_seconds(seconds)

    @classmethod
    def of_seconds(cls, seconds: Sequence[float]) -> Latency | None:
        """Summarise measured durations; None if there are none."""
        if not seconds:
            return None
        p50, p95 = np.percentile(np.asarray(seconds) * 1e3, [50, 95])
        return cls(p50_ms=round(float(p50), 3), p95_ms=round(float(p95), 3), calls=len(seconds))


@dataclass(frozen=True, slots=True)
class SystemLatency:
    """Time to encode one query (None if the system encodes nothing) and to search the whole corpus for it."""

    encode: Latency | None
    search: Latency | None
