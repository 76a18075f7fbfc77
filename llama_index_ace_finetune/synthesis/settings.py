"""SynthesisSettings and CallSettings: what to generate, and how to call the language model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama_index_ace_finetune.errors import AceFinetuneError


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """What to generate, and which queries to keep.

    Attributes:
        num_queries: how many queries to ask for; filters leave fewer.
        per_memory: queries per memory; more if there are fewer memories than `num_queries`.
        examples: training queries shown as examples of style.
        neighbours: similar memories shown as ones that the query must not fit.
        min_words: of a query.
        max_words: of a query.
        max_copied: fraction of a query's words that its memory may hold; None for the 90th percentile of the training
            queries, or no limit if there are none.
        near_duplicate: Jaccard similarity of word sets from which a query repeats a known or held-out query.
        round_trip: a query is kept if hybrid retrieval ranks its memory among the first N; None to keep all.
        seed: random seed.
    """

    num_queries: int = 1000
    per_memory: int = 1
    examples: int = 5
    neighbours: int = 2
    min_words: int = 2
    max_words: int = 40
    max_copied: float | None = None
    near_duplicate: float = 0.8
    round_trip: int | None = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for an invalid value."""
        for name in ("num_queries", "per_memory", "min_words", "max_words"):
            _require(name, getattr(self, name), at_least=1)
        for name in ("examples", "neighbours"):
            _require(name, getattr(self, name), at_least=0)
        if self.round_trip is not None:
            _require("round_trip", self.round_trip, at_least=1)
        if self.max_words < self.min_words:
            raise AceFinetuneError(f"max_words is {self.max_words}, below min_words {self.min_words}; increase it.")
        if self.max_copied is not None and not 0 <= self.max_copied <= 1:
            raise AceFinetuneError(f"max_copied is {self.max_copied}; it must be between 0 and 1.")
        if not 0 < self.near_duplicate <= 1:
            raise AceFinetuneError(f"near_duplicate is {self.near_duplicate}; it must be above 0 and at most 1.")


@dataclass(frozen=True, kw_only=True)
class CallSettings:
    """How to call the language model.

    Attributes:
        concurrency: calls at a time.
        timeout: seconds per call.
        retries: further attempts after a failed call.
        backoff: seconds before the first retry; doubled for each further one, with jitter.
        requests_per_minute: limit on calls; None for none.
    """

    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0
    requests_per_minute: float | None = None

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for an invalid value."""
        _require("concurrency", self.concurrency, at_least=1)
        _require("retries", self.retries, at_least=0)
        for name in ("timeout", "requests_per_minute"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise AceFinetuneError(f"{name} is {value}; it must be above 0.")
        if not 0 <= self.backoff < math.inf:
            raise AceFinetuneError(f"backoff is {self.backoff}; it must be 0 or more seconds.")


def _require(name: str, value: int, *, at_least: int) -> None:
    if value < at_least:
        raise AceFinetuneError(f"{name} is {value}; it must be at least {at_least}.")
