"""BM25, base, tuned and hybrids on queries that no choice has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.evaluation.fusion_tuning import FusionChoice, tune_fusion
from llama_index_ace_finetune.evaluation.measures import HEADLINE, per_query
from llama_index_ace_finetune.evaluation.significance import PairedDifference, paired_difference
from llama_index_ace_finetune.evaluation.systems import (
    EvaluationSet,
    System,
    bm25_system,
    dense_system,
    hybrid_system,
)

BM25, BASE, TUNED = "BM25", "base", "tuned"
HYBRID_BASE, HYBRID_EQUAL, HYBRID_TUNED = "hybrid base", "hybrid equal", "hybrid"


@dataclass(frozen=True)
class Evaluation:
    """Systems on one set of queries.

    Attributes:
        data: the queries, their answers and the corpus.
        systems: in the order of the table.
        values: per system and measure, per-query values float [n].
        differences: per system (all but the base) and measure, the paired difference to the base.
        fusion: the weights of the hybrid, chosen on dev.
        metadata: per query id, what the dataset says about the query (category, difficulty).
    """

    data: EvaluationSet
    systems: tuple[System, ...]
    values: Mapping[str, Mapping[str, NDArray[np.float64]]]
    differences: Mapping[str, Mapping[str, PairedDifference]]
    fusion: FusionChoice
    metadata: Mapping[str, Mapping[str, object]]

    def mean(self, system: str, measure: str) -> float:
        """Mean of a measure over all queries; a query with an empty ranking counts 0."""
        return float(self.values[system][measure].mean())

    def system(self, name: str) -> System:
        """The system of that name."""
        return next(system for system in self.systems if system.name == name)


def evaluate_systems(
    dataset: RetrievalDataset,
    *,
    test: Sequence[str],
    dev: Sequence[str],
    base: Encoder,
    tuned: Encoder,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare BM25, base, tuned and their hybrids on `test`; the hybrid's weights are chosen on `dev`.

    Args:
        dataset: corpus and judgements.
        test: query ids that nothing was chosen on.
        dev: query ids to choose the hybrid's weights on.
        base: the untuned model.
        tuned: the model that ships; the base itself where tuning did not help.
        cache: folder for vectors, so that a text is encoded once per model.
        progress: called with the number of texts just encoded.

    Raises:
        DatasetError: without a test query.
    """
    if not test:
        raise DatasetError(f"{dataset.name}: there is no held-out query to evaluate on; bring more queries.")
    data, dev_data = EvaluationSet.of(dataset, test), EvaluationSet.of(dataset, dev)
    both = EvaluationSet.of(dataset, [*test, *dev])
    count = len(test)

    def ranked(system: System) -> tuple[System, System]:
        return _rows(system, slice(0, count)), _rows(system, slice(count, None))

    lexical, lexical_dev = ranked(bm25_system(both))
    base_dense, _ = ranked(dense_system(both, base, name=BASE, cache=cache, progress=progress))
    tuned_dense, tuned_dev = ranked(dense_system(both, tuned, name=TUNED, cache=cache, progress=progress))
    fusion = tune_fusion(tuned_dev, lexical_dev, dev_data)
    systems = (
        lexical,
        base_dense,
        tuned_dense,
        hybrid_system(base_dense, lexical, name=HYBRID_BASE),
        hybrid_system(tuned_dense, lexical, name=HYBRID_EQUAL),
        hybrid_system(tuned_dense, lexical, name=HYBRID_TUNED, weights=fusion.weights),
    )
    values = {
        system.name: {str(measure): per_query(measure, system.rankings, data.relevant) for measure in HEADLINE}
        for system in systems
    }
    groups = data.groups
    differences = {
        name: {
            measure: paired_difference(value, values[BASE][measure], groups=groups)
            for measure, value in measured.items()
        }
        for name, measured in values.items()
        if name != BASE
    }
    return Evaluation(
        data=data,
        systems=systems,
        values=values,
        differences=differences,
        fusion=fusion,
        metadata={query_id: dict(dataset.queries[query_id].metadata) for query_id in test},
    )


def _rows(system: System, rows: slice) -> System:
    cosine = None if system.cosine is None else system.cosine[rows]
    return replace(system, rankings=system.rankings[rows], cosine=cosine)
