"""Settings of hard-negative mining."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.utils.old_settings import LARGE_MARGIN

SamplingStrategy = Literal["top", "random", "spread"]


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """Settings of `HardNegativeMiner`: sources of candidates, filters, and sampling.

    Names and margins mean the same as for `sentence_transformers.util.mine_hard_negatives`.

    A score is the cosine with the query, or the teacher score if there is a teacher. `pos` is the smallest score of
    the query's positives. None disables a filter.

    Attributes:
        range_max: candidates per source and query: the last rank that is considered.
        range_min: ranks to skip at the top: a candidate that any source ranks in its first `range_min` is rejected.
            Positives count in the ranks.
        dense: take candidates from the embedding model.
        bm25: take candidates from BM25.
        near_duplicate: reject if the cosine with a positive is at least this: a near-duplicate of a positive.
        nearer_answer: keep if the cosine with every positive is at most this fraction of `pos`: a candidate closer to
            a positive than the query is, is probably a positive too (GISTEmbed, Solatorio 2024).
        relative_margin: keep if score <= pos - |pos| * relative_margin: 0.05 keeps a negative at least 5% below the
            positive (NV-Retriever's "perc-pos" of 95%, Moreira et al. 2024), 0 keeps all up to the positive itself.
        absolute_margin: keep if score <= pos - absolute_margin (the same paper's "margin-pos").
        max_score: keep if score <= max_score.
        teacher: a cross-encoder or a second embedding model, by folder or hub name, whose scores the margins and
            `max_score` use.
        relaxation: margin back-off: relative margins to try in turn for queries with too few negatives, each smaller
            than the one before, None (no margin) last; (0.0, None) for example. Other filters stay the same.
        sampling_strategy: "top" selects by best rank over all sources; "random" samples uniformly from the accepted
            candidates; "spread" selects from the sources round-robin.
        seed: random seed of the sampling and of the samples in the report.
    """

    range_max: int = 50
    range_min: int = 0
    dense: bool = True
    bm25: bool = True
    near_duplicate: float = 0.95
    nearer_answer: float | None = None
    relative_margin: float | None = 0.05
    absolute_margin: float | None = None
    max_score: float | None = None
    teacher: str | Path | None = None
    relaxation: tuple[float | None, ...] = ()
    sampling_strategy: SamplingStrategy = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.range_max >= 1, "range_max", self.range_max, "at least 1")
        below = f"from 0 to below range_max ({self.range_max})"
        _require(0 <= self.range_min < self.range_max, "range_min", self.range_min, below)
        _require(0 < self.near_duplicate <= 1.0001, "near_duplicate", self.near_duplicate, "in (0, 1]")
        for name in ("nearer_answer", "relative_margin", "absolute_margin", "max_score"):
            value = getattr(self, name)
            _require(value is None or math.isfinite(value), name, value, "a finite number")
        _require(self.nearer_answer is None or self.nearer_answer > 0, "nearer_answer", self.nearer_answer, "above 0")
        margin = self.relative_margin
        _require(margin is None or margin < 1, "relative_margin", margin, "below 1")
        if self.absolute_margin is not None:
            _require(self.absolute_margin >= 0, "absolute_margin", self.absolute_margin, "0 or more")
        strategies = get_args(SamplingStrategy)
        _require(
            self.sampling_strategy in strategies, "sampling_strategy", self.sampling_strategy, ", ".join(strategies)
        )
        self._check_relaxation()
        if self.teacher is not None and (self.relative_margin, self.absolute_margin, self.max_score) == (None,) * 3:
            raise AceFinetuneError(
                f"The mining setting teacher is {str(self.teacher)!r}, but no filter uses its scores; set "
                "relative_margin, absolute_margin or max_score."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-compatible values."""
        teacher = None if self.teacher is None else str(self.teacher)
        return {**asdict(self), "teacher": teacher, "relaxation": list(self.relaxation)}

    def warnings(self) -> list[str]:
        """Return a warning for each setting that is valid but probably a mistake."""
        return margin_warnings("relative_margin", self.relative_margin)

    def _check_relaxation(self) -> None:
        if not self.relaxation:
            return
        if self.relative_margin is None:
            raise AceFinetuneError(
                "The mining setting relaxation lowers relative_margin, which is None; set relative_margin too."
            )
        margins = [-math.inf if step is None else step for step in (self.relative_margin, *self.relaxation)]
        decreasing = all(before > after for before, after in pairwise(margins))
        expected = f"margins that decrease from relative_margin ({self.relative_margin}), None last"
        _require(decreasing, "relaxation", self.relaxation, expected)


def margin_warnings(name: str, margin: float | None) -> list[str]:
    """Return a warning for a relative margin that looks like the percentage of the positive's score (0.95)."""
    if margin is None or margin <= LARGE_MARGIN:
        return []
    return [
        f"{name} is {margin:g}, so only documents that score below {1 - margin:.3g} of the positive are negatives; it "
        f"is a distance, as in sentence-transformers: for scores up to {margin:g} of the positive set {1 - margin:.3g}"
    ]


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise AceFinetuneError(f"The mining setting {name} is {value}; it must be {expected}.")
