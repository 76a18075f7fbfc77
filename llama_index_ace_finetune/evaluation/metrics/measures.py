"""Measures of rankings: per query first, mean second.

Each measure is a value that prints its own name and takes `RightHits`. An empty ranking counts 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.hits import RightHits, find_right_hits
from llama_index_ace_finetune.evaluation.metrics.qrels import Judgements


@dataclass(frozen=True, slots=True)
class _AtK:
    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise AceFinetuneError(f"The cut-off of a measure is {self.k!r}; it must be a whole number of 1 or more.")


@dataclass(frozen=True, slots=True)
class Success(_AtK):
    """1 if a right answer is among the first k, else 0. What the original and LlamaIndex call recall or hit rate."""

    def __str__(self) -> str:
        return f"Success@{self.k}"

    def per_query(self, hits: RightHits) -> NDArray[np.float64]:
        """Return float64 [n]."""
        return (hits.total(np.ones(len(hits.ranks)), hits.ranks <= self.k) > 0).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Recall(_AtK):
    """Share of the right answers that are among the first k."""

    def __str__(self) -> str:
        return f"Recall@{self.k}"

    def per_query(self, hits: RightHits) -> NDArray[np.float64]:
        """Return float64 [n]."""
        return hits.total(np.ones(len(hits.ranks)), hits.ranks <= self.k) / hits.judgements.answers


@dataclass(frozen=True, slots=True)
class MRR(_AtK):
    """1 / rank of the first right answer among the first k, 0 where there is none."""

    def __str__(self) -> str:
        return f"MRR@{self.k}"

    def per_query(self, hits: RightHits) -> NDArray[np.float64]:
        """Return float64 [n]."""
        return hits.total(1.0 / hits.ranks, (hits.places == 1) & (hits.ranks <= self.k))


@dataclass(frozen=True, slots=True)
class NDCG(_AtK):
    """Discounted gain of the first k over the largest that any ranking could have.

    The gain is the grade itself (linear, not 2^grade - 1) and the discount log2(rank + 1): `ndcg_cut` of trec_eval.
    Source: Jarvelin, Kekalainen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.
    """

    def __str__(self) -> str:
        return f"nDCG@{self.k}"

    def per_query(self, hits: RightHits) -> NDArray[np.float64]:
        """Return float64 [n]."""
        judgements = hits.judgements
        # Per query the highest grade stands first, so the judgements are themselves the best ranking.
        places = np.arange(1, len(judgements.rows) + 1) - np.repeat(judgements.starts[:-1], judgements.answers)
        best = RightHits(judgements, judgements.queries, places, judgements.grades)
        return self._gain(hits) / self._gain(best)

    def _gain(self, hits: RightHits) -> NDArray[np.float64]:
        return hits.total(hits.grades / np.log2(hits.ranks + 1.0), hits.ranks <= self.k)


@dataclass(frozen=True, slots=True)
class MAP(_AtK):
    """Precision at each right hit among the first k, summed, over the number of right answers.

    `map_cut` of trec_eval. sentence-transformers divides by min(k, right answers) instead, which is larger where a
    query has more than k right answers.
    """

    def __str__(self) -> str:
        return f"MAP@{self.k}"

    def per_query(self, hits: RightHits) -> NDArray[np.float64]:
        """Return float64 [n]."""
        return hits.total(hits.places / hits.ranks, hits.ranks <= self.k) / hits.judgements.answers


Measure = Success | Recall | MRR | NDCG | MAP
HEADLINE: tuple[Measure, ...] = (Success(1), Success(5), MRR(10))
MEASURES: tuple[Measure, ...] = (*HEADLINE, Recall(10), NDCG(10), MAP(100))
"""What an evaluation computes by default."""


def measure_rankings(
    measures: Sequence[Measure],
    rankings: NDArray[np.int32],
    judgements: Judgements | Sequence[ArrayLike],
    *,
    scores: NDArray[np.floating] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return per name of a measure its value for each query, float64 [n].

    Args:
        measures: what to compute; the right hits are looked for once.
        rankings: corpus rows int [n, depth], best first, padded with -1 at the end.
        judgements: of the same queries, or the right rows of each.
        scores: of the hits, float [n, depth]; checked only.

    Raises:
        AceFinetuneError: as `find_right_hits`; above all, every query must have a right answer.
    """
    if not isinstance(judgements, Judgements):
        judgements = Judgements.of(judgements)
    hits = find_right_hits(rankings, judgements, scores=scores)
    return {str(measure): measure.per_query(hits) for measure in measures}


def per_query(
    measure: Measure, rankings: NDArray[np.int32], relevant: Judgements | Sequence[ArrayLike]
) -> NDArray[np.float64]:
    """Return one measure of each query, float64 [n]; see `measure_rankings`."""
    return measure_rankings([measure], rankings, relevant)[str(measure)]


_KINDS: dict[str, type[Measure]] = {
    "success": Success, "hit": Success, "recall": Recall, "mrr": MRR, "ndcg": NDCG, "map": MAP,
}  # fmt: skip
_NAME = re.compile(r"([a-z]+)@(\d{1,9})", re.IGNORECASE)


def parse_measure(name: str, *, original_names: bool = False) -> Measure:
    """Return the measure that prints itself as `name`; upper and lower case are the same.

    Args:
        name: such as `Success@5`, `Recall@5`, `MRR@10`, `nDCG@10`, `MAP@100`; `Hit@5` is another name of `Success@5`.
        original_names: read `Recall@k` as the original meant it, which is `Success@k`.

    Raises:
        AceFinetuneError: for a name that is none of these.
    """
    match = _NAME.fullmatch(name.strip())
    kind = _KINDS.get(match[1].lower()) if match else None
    if match is None or kind is None:
        raise AceFinetuneError(
            f"There is no measure {name!r}; write Success@k, Recall@k, MRR@k, nDCG@k or MAP@k with a number for k."
        )
    return (Success if original_names and kind is Recall else kind)(int(match[2]))
