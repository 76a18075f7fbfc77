"""LogSettings: what a query log keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llama_index_ace_finetune.errors import AceFinetuneError


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What is logged, and how long it is kept.

    Attributes:
        redact: replaces each query text and reason before it is written, such as `mask_personal_data`; a record whose
            redaction raises an error is dropped.
        sample: fraction of the queries that are logged, in (0, 1].
        keep_days: days after which a query and its feedback are deleted; None keeps them.
        max_bytes: size of the log above which the oldest queries are deleted, those without feedback first; None is no
            limit.
        queue_size: records that wait to be written; further ones are dropped and counted.

    Raises AceFinetuneError for a value out of range.
    """

    redact: Callable[[str], str] | None = None
    sample: float = 1.0
    keep_days: float | None = 90.0
    max_bytes: int | None = 2**30
    queue_size: int = 10_000

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise AceFinetuneError(f"The log's sample is {self.sample}; give a fraction above 0 and at most 1.")
        if self.keep_days is not None and not self.keep_days > 0:
            raise AceFinetuneError(f"The log's keep_days is {self.keep_days}; give days above 0, or None.")
        if self.max_bytes is not None and self.max_bytes < 2**20:
            raise AceFinetuneError(f"The log's max_bytes is {self.max_bytes}; give at least 1,048,576, or None.")
        if self.queue_size < 1:
            raise AceFinetuneError(f"The log's queue_size is {self.queue_size}; give at least 1.")
