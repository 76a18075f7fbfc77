"""Measures of rankings: a value per query, then the mean.

A measure is a frozen value that prints its name and computes from `RelevantHits`. An empty ranking counts as 0. A new
measure is one class here and one entry of `MEASURE_CLASSES`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.hits import RelevantHits, match_qrels
from llama_index_ace_finetune.evaluation.metrics.qrels import Qrels


@dataclass(frozen=True, slots=True)
class Measure(ABC):
    """A measure of the first k hits; it prints as `name@k`, and `alias@k` is read as the same."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise AceFinetuneError(f"The cut-off of a measure is {self.k!r}; it must be an integer of 1 or more.")

    def __str__(self) -> str:
        return f"{self.name}@{self.k}"

    @abstractmethod
    def per_query(self, hits: RelevantHits) -> NDArray[np.float64]:
        """Return the value of each query, float64 [n]."""


class Success(Measure):
    """1 if a relevant document is among the first k, else 0. The original and LlamaIndex call it recall or hit rate."""

    name = "Success"
    aliases = ("Hit",)

    def per_query(self, hits: RelevantHits) -> NDArray[np.float64]:
        """Return float64 [n]."""
        return (hits.total(np.ones(len(hits.ranks)), hits.ranks <= self.k) > 0).astype(np.float64)


class Recall(Measure):
    """Fraction of the relevant documents that are among the first k."""

    name = "Recall"

    def per_query(self, hits: RelevantHits) -> NDArray[np.float64]:
        """Return float64 [n]."""
        return hits.total(np.ones(len(hits.ranks)), hits.ranks <= self.k) / hits.qrels.relevant_counts


class MRR(Measure):
    """Reciprocal rank of the first relevant document among the first k, 0 if there is none."""

    name = "MRR"

    def per_query(self, hits: RelevantHits) -> NDArray[np.float64]:
        """Return float64 [n]."""
        return hits.total(1.0 / hits.ranks, (hits.cumulative_counts == 1) & (hits.ranks <= self.k))


class NDCG(Measure):
    """Discounted cumulative gain of the first k, divided by that of the ideal ranking.

    The gain is the grade (linear, not 2^grade - 1) and the discount log2(rank + 1), as in `ndcg_cut` of trec_eval.
    Source: Jarvelin, Kekalainen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.
    """

    name = "nDCG"

    def per_query(self, hits: RelevantHits) -> NDArray[np.float64]:
        """Return float64 [n]."""
        qrels = hits.qrels
        # Qrels are sorted by descending grade, so they are the ideal ranking.
        ranks = np.arange(1, len(qrels.rows) + 1) - np.repeat(qrels.starts[:-1], qrels.relevant_counts)
        ideal = RelevantHits(qrels, qrels.queries, ranks, qrels.grades)
        return self._gain(hits) / self._gain(ideal)

    def _gain(self, hits: RelevantHits) -> NDArray[np.float64]:
        return hits.total(hits.grades / np.log2(hits.ranks + 1.0), hits.ranks <= self.k)


class MAP(Measure):
    """Sum of the precision at each relevant hit among the first k, divided by the number of relevant documents.

    As `map_cut` of trec_eval. sentence-transformers divides by min(k, relevant documents) instead, which gives larger
    values for queries with more than k relevant documents.
    """

    name = "MAP"

    def per_query(self, hits: RelevantHits) -> NDArray[np.float64]:
        """Return float64 [n]."""
        return hits.total(hits.cumulative_counts / hits.ranks, hits.ranks <= self.k) / hits.qrels.relevant_counts


MEASURE_CLASSES: tuple[type[Measure], ...] = (Success, Recall, MRR, NDCG, MAP)
"""All measures; `parse_measure` reads their names."""
HEADLINE: tuple[Measure, ...] = (Success(1), Success(5), MRR(10))
MEASURES: tuple[Measure, ...] = (*HEADLINE, Recall(10), NDCG(10), MAP(100))
"""The measures that an evaluation computes by default."""


def measure_rankings(
    measures: Sequence[Measure],
    rankings: NDArray[np.int32],
    qrels: Qrels | Sequence[ArrayLike],
    *,
    scores: NDArray[np.floating] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return per measure name its value for each query, float64 [n].

    Args:
        measures: the measures; qrels are matched once for all of them.
        rankings: corpus rows int [n, depth], best first, padded with -1 at the end.
        qrels: of the same queries, or the relevant rows of each query.
        scores: of the hits, float [n, depth]; only validated.

    Raises:
        AceFinetuneError: as `match_qrels`; among others, for a query without a relevant document.
    """
    if not isinstance(qrels, Qrels):
        qrels = Qrels.of(qrels)
    hits = match_qrels(rankings, qrels, scores=scores)
    return {str(measure): measure.per_query(hits) for measure in measures}


def per_query(
    measure: Measure, rankings: NDArray[np.int32], relevant: Qrels | Sequence[ArrayLike]
) -> NDArray[np.float64]:
    """Return one measure for each query, float64 [n]; see `measure_rankings`."""
    return measure_rankings([measure], rankings, relevant)[str(measure)]


_BY_NAME = {name.lower(): kind for kind in MEASURE_CLASSES for name in (kind.name, *kind.aliases)}
_NAME = re.compile(r"([a-z]+)@(\d{1,9})", re.IGNORECASE)


def parse_measure(name: str, *, original_names: bool = False) -> Measure:
    """Return the measure with this name, such as `MRR@10`; case is ignored.

    Args:
        name: such as `Success@5`, `Recall@5`, `MRR@10`, `nDCG@10`, `MAP@100`; `Hit@5` is an alias of `Success@5`.
        original_names: read `Recall@k` as `Success@k`, its meaning in the original.

    Raises:
        AceFinetuneError: if the name is unknown.
    """
    match = _NAME.fullmatch(name.strip())
    kind = _BY_NAME.get(match[1].lower()) if match else None
    if match is None or kind is None:
        *others, last = (f"{one.name}@k" for one in MEASURE_CLASSES)
        raise AceFinetuneError(
            f"There is no measure {name!r}; write {', '.join(others)} or {last} with a number for k."
        )
    return (Success if original_names and kind is Recall else kind)(int(match[2]))
