"""How hard negatives are chosen."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from llama_index_ace_finetune.errors import AceFinetuneError

Selection = Literal["top", "random", "spread"]


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """Settings of `HardNegativeMiner`: where candidates come from, which are refused, which of the rest are taken.

    A score is the cosine with the query, or the teacher's score where there is a teacher. `pos` is the least score
    among the query's right answers. None switches a filter off.

    Attributes:
        top_k: candidates taken from each source per query; the last rank of the window.
        min_rank: first rank of the window; a candidate that any source ranks above it is refused. Ranks are those
            that the source gives, from 1, right answers included.
        dense: take candidates from the embedding model.
        bm25: take candidates from BM25.
        near_duplicate: candidates whose cosine with a right answer reaches this are taken for the answer itself.
        nearer_answer: keep if no right answer's cosine with the candidate exceeds this share of `pos`: what lies
            closer to the answer than the query does is probably an answer too (GISTEmbed, Solatorio 2024).
        relative_margin: keep if score <= pos - |pos| * (1 - relative_margin) (NV-Retriever's "perc-pos", Moreira et
            al. 2024, for either sign); 1 keeps all up to the right answer itself.
        absolute_margin: keep if score <= pos - absolute_margin (the same paper's "margin-pos").
        max_score: keep if score <= max_score.
        teacher: a cross-encoder or a second embedding model, by folder or hub name, whose scores the margins and
            `max_score` then use.
        relaxation: relative margins that are tried in turn for queries left with fewer negatives than asked, each
            looser than the one before, None last; (1.0, None) for example. Other filters stay as they are.
        selection: "top" takes the best ranks over all sources; "random" draws uniformly from what passed; "spread"
            lets the sources take turns.
        seed: of the random draws and of the report's samples.
    """

    top_k: int = 50
    min_rank: int | None = None
    dense: bool = True
    bm25: bool = True
    near_duplicate: float = 0.95
    nearer_answer: float | None = None
    relative_margin: float | None = 0.95
    absolute_margin: float | None = None
    max_score: float | None = None
    teacher: str | Path | None = None
    relaxation: tuple[float | None, ...] = ()
    selection: Selection = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.top_k >= 1, "top_k", self.top_k, "at least 1")
        if self.min_rank is not None:
            _require(1 <= self.min_rank <= self.top_k, "min_rank", self.min_rank, f"from 1 to top_k ({self.top_k})")
        _require(0 < self.near_duplicate <= 1.0001, "near_duplicate", self.near_duplicate, "in (0, 1]")
        for name in ("nearer_answer", "relative_margin", "absolute_margin", "max_score"):
            value = getattr(self, name)
            _require(value is None or math.isfinite(value), name, value, "a finite number")
        for name in ("nearer_answer", "relative_margin"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "above 0")
        if self.absolute_margin is not None:
            _require(self.absolute_margin >= 0, "absolute_margin", self.absolute_margin, "0 or more")
        _require(self.selection in get_args(Selection), "selection", self.selection, ", ".join(get_args(Selection)))
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

    def _check_relaxation(self) -> None:
        if not self.relaxation:
            return
        if self.relative_margin is None:
            raise AceFinetuneError(
                "The mining setting relaxation loosens relative_margin, which is off; set relative_margin too."
            )
        margins = [math.inf if step is None else step for step in (self.relative_margin, *self.relaxation)]
        rising = all(before < after for before, after in pairwise(margins))
        wanted = f"margins that rise from relative_margin ({self.relative_margin}), None last"
        _require(rising, "relaxation", self.relaxation, wanted)


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise AceFinetuneError(f"The mining setting {name} is {value}; it must be {wanted}.")
