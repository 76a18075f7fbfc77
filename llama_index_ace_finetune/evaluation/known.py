"""KnownResults: the systems measured on new queries about memories that train queries are about too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.metrics.measures import MEASURES, measure_rankings
from llama_index_ace_finetune.evaluation.stats.comparison import Comparison, compare_measures
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System


@dataclass(frozen=True)
class KnownResults:
    """The results of the systems on held-out queries about known memories; nothing is decided by them.

    Attributes:
        data: the queries, their relevant documents and the corpus.
        values: per system and measure, per-query values float [n].
        comparisons: per measure, every system compared with the base.
    """

    data: EvaluationSet
    values: Mapping[str, Mapping[str, NDArray[np.float64]]]
    comparisons: Mapping[str, Comparison]

    @classmethod
    def of(cls, data: EvaluationSet, systems: Sequence[System], *, base: str) -> KnownResults:
        """Measure systems that rank the queries of `data`; one of them is the base."""
        qrels = data.qrels
        values = {one.name: measure_rankings(MEASURES, one.rankings, qrels, scores=one.scores) for one in systems}
        return cls(data, values, compare_measures(values, base=base, groups=data.groups))

    def mean(self, system: str, measure: str) -> float:
        """Mean of a measure over all queries."""
        return float(self.values[system][measure].mean())

    def difference(self, system: str, measure: str) -> PairedDifference:
        """The paired difference of a system to the base."""
        return self.comparisons[measure].differences[system]
