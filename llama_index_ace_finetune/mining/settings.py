"""How hard negatives are chosen."""

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
    """Settings of `HardNegativeMiner`: where candidates come from, which are refused, which of the rest are taken.

    Names and margins mean what they mean for `sentence_transformers.util.mine_hard_negatives`.

    A score is the cosine with the query, or the teacher's score where there is a teacher. `pos` is the least score
    among the query's right answers. None switches a filter off.

    Attributes:
        range_max: candidates taken from each source per query: the last rank that is considered.
        range_min: first ranks that are skipped: a candidate that any source ranks among its first `range_min` is
            refused. Ranks are those that the source gives, positives included.
        dense: take candidates from the embedding model.
        bm25: take candidates from BM25.
        near_duplicate: candidates whose cosine with a right answer reaches this are taken for the answer itself.
        nearer_answer: keep if no right answer's cosine with the candidate exceeds this share of `pos`: what lies
            closer to the answer than the query does is probably an answer too (GISTEmbed, Solatorio 2024).
        relative_margin: keep if score <= pos - |pos| * relative_margin: 0.05 keeps a negative at least 5 % below the
            positive (NV-Retriever's "perc-pos" of 95 %, Moreira et al. 2024), 0 keeps all up to the positive itself.
        absolute_margin: keep if score <= pos - absolute_margin (the same paper's "margin-pos").
        max_score: keep if score <= max_score.
        teacher: a cross-encoder or a second embedding model, by folder or hub name, whose scores the margins and
            `max_score` then use.
        relaxation: relative margins that are tried in turn for queries left with fewer negatives than asked, each
            smaller than the one before, None last; (0.0, None) for example. Other filters stay as they are.
        sampling_strategy: "top" takes the best ranks over all sources; "random" draws uniformly from what passed;
            "spread" lets the sources take turns.
        seed: of the random draws and of the report's samples.
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
                f"The mining setting teacher is {str(self.teacher)!r}, but nothing uses its scores; set "
                "relative_margin, absolute_margin or max_score."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        teacher = None if self.teacher is None else str(self.teacher)
        return {**asdict(self), "teacher": teacher, "relaxation": list(self.relaxation)}

    def warnings(self) -> list[str]:
        """Return a sentence for each setting that is allowed and hardly meant."""
        return margin_warnings("relative_margin", self.relative_margin)

    def _check_relaxation(self) -> None:
        if not self.relaxation:
            return
        if self.relative_margin is None:
            raise AceFinetuneError(
                "The mining setting relaxation loosens relative_margin, which is off; set relative_margin too."
            )
        margins = [-math.inf if step is None else step for step in (self.relative_margin, *self.relaxation)]
        falling = all(before > after for before, after in pairwise(margins))
        wanted = f"margins that fall from relative_margin ({self.relative_margin}), None last"
        _require(falling, "relaxation", self.relaxation, wanted)


def margin_warnings(name: str, margin: float | None) -> list[str]:
    """Return a warning for a relative margin that looks like the percentage of the positive's score (0.95)."""
    if margin is None or margin <= LARGE_MARGIN:
        return []
    return [
        f"{name} is {margin:g}, so only what scores below {1 - margin:.3g} of the positive counts as a negative; it is "
        f"a distance, as in sentence-transformers: for up to {margin:g} of the positive's score give {1 - margin:.3g}"
    ]


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise AceFinetuneError(f"The mining setting {name} is {value}; it must be {wanted}.")
