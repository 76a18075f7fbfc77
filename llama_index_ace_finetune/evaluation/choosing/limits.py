"""ServingLimits: upper bounds of what a served system may cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingLimits:
    """Upper bounds of a served system; None for no bound.

    Attributes:
        query_ms: milliseconds per query, encoding included, as measured during the evaluation.
        bytes_per_memory: bytes that its legs store per memory.
    """

    query_ms: float | None = None
    bytes_per_memory: float | None = None

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for a bound that is not above 0."""
        for option, value in (("query-ms", self.query_ms), ("bytes-per-memory", self.bytes_per_memory)):
            if value is not None and not 0 < value < math.inf:
                raise AceFinetuneError(f"The limit {option} is {value:g}; set it to a number above 0.")

    def apply(self, candidates: Sequence[Candidate]) -> tuple[Sequence[Candidate], str]:
        """Return the candidates within the limits, and a note if there are none: then the cheapest is returned."""
        kept = [one for one in candidates if self._excess(one) <= 1]
        if kept:
            return kept, ""
        least = min(candidates, key=self._excess)
        return [least], (
            f"No system is within {self}; the nearest is served, {least.structure.name}, with "
            f"{least.milliseconds or 0:.1f} ms per query and {least.bytes_per_memory or 0:.0f} bytes per memory. "
            "Raise the limits, or use a smaller base model."
        )

    def _excess(self, candidate: Candidate) -> float:
        pairs = (candidate.milliseconds, self.query_ms), (candidate.bytes_per_memory, self.bytes_per_memory)
        return max((cost / limit for cost, limit in pairs if cost is not None and limit is not None), default=0.0)

    def __str__(self) -> str:
        query = "" if self.query_ms is None else f"{self.query_ms:g} ms per query"
        stored = "" if self.bytes_per_memory is None else f"{self.bytes_per_memory:g} bytes per memory"
        return " and ".join(one for one in (query, stored) if one) or "no limit"
