"""How good any LlamaIndex retriever is on a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.evaluation.external_systems import RetrieverHits, aretrieve_all, retrieve_all
from llama_index_ace_finetune.evaluation.metrics.latency import Latency
from llama_index_ace_finetune.evaluation.metrics.measures import MEASURES, Measure, measure_rankings, parse_measure
from llama_index_ace_finetune.evaluation.slices import MeanInterval, Slice, measure_slices
from llama_index_ace_finetune.evaluation.systems import EvaluationSet

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever


@dataclass(frozen=True)
class RetrieverEvaluation:
    """What a retriever reached.

    Attributes:
        name: of the retriever's class.
        query_ids: what it was asked.
        values: per measure, per-query values float64 [n]; two evaluations over the same queries can be compared by
            `paired_difference`.
        means: per measure, the mean with its 95 % interval, bootstrapped by right answer.
        latency: of one call.
        without_answer: ids of queries that no memory answers, which were left out.
    """

    name: str
    query_ids: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    means: Mapping[str, MeanInterval]
    latency: Latency | None
    without_answer: tuple[str, ...] = ()

    def __str__(self) -> str:
        figures = ", ".join(
            f"{name} {one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]" for name, one in self.means.items()
        )
        return f"{self.name} on {len(self.query_ids)} queries: {figures}"


def evaluate_retriever(
    retriever: BaseRetriever,
    dataset: RetrievalDataset,
    *,
    query_ids: Sequence[str] | None = None,
    measures: Sequence[Measure | str] = MEASURES,
) -> RetrieverEvaluation:
    """Measure a retriever on a dataset's queries, one after the other.

    A hit is known by its node id, its `ref_doc_id`, a memory id in its metadata, or its text. Texts that are equal
    are one answer, and a query without a hit counts 0. A measure at k needs a retriever that gives k hits.

    Args:
        retriever: any LlamaIndex retriever.
        dataset: queries, right answers and corpus.
        query_ids: which queries; all by default, but for those without a right answer.
        measures: what to compute, also by name, such as "MRR@10" or "nDCG@5".

    Raises:
        DatasetError: if there is no query to ask, or an id is unknown.
        AceFinetuneError: if a measure is unknown, or the retriever fails, naming the query.
    """
    wanted = _parsed(measures)
    data, without = _asked(dataset, query_ids)
    return _evaluated(retriever, data, without, wanted, retrieve_all(retriever, dataset, data))


async def aevaluate_retriever(
    retriever: BaseRetriever,
    dataset: RetrievalDataset,
    *,
    query_ids: Sequence[str] | None = None,
    measures: Sequence[Measure | str] = MEASURES,
    concurrency: int = 8,
) -> RetrieverEvaluation:
    """`evaluate_retriever` with at most `concurrency` queries at a time, by the retriever's own `aretrieve`."""
    wanted = _parsed(measures)
    data, without = _asked(dataset, query_ids)
    hits = await aretrieve_all(retriever, dataset, data, concurrency=concurrency)
    return _evaluated(retriever, data, without, wanted, hits)


def _parsed(measures: Sequence[Measure | str]) -> list[Measure]:
    return [parse_measure(measure) if isinstance(measure, str) else measure for measure in measures]


def _asked(dataset: RetrievalDataset, query_ids: Sequence[str] | None) -> tuple[EvaluationSet, tuple[str, ...]]:
    wanted = list(dataset.queries if query_ids is None else query_ids)
    unknown = next((query_id for query_id in wanted if query_id not in dataset.queries), None)
    if unknown is not None:
        raise DatasetError(f"{dataset.name}: there is no query {unknown!r:.80}; name queries of this dataset.")
    without = tuple(query_id for query_id in wanted if not dataset.relevant(query_id))
    asked = [query_id for query_id in wanted if dataset.relevant(query_id)]
    if not asked:
        raise DatasetError(f"{dataset.name}: no query to ask has a right answer; bring judged queries.")
    return EvaluationSet.of(dataset, asked), without


def _evaluated(
    retriever: BaseRetriever,
    data: EvaluationSet,
    without: tuple[str, ...],
    measures: Sequence[Measure],
    hits: RetrieverHits,
) -> RetrieverEvaluation:
    values = measure_rankings(measures, hits.rankings, data.judgements)
    everything = Slice("all", "all", np.arange(len(data.queries)))
    (measured,) = measure_slices([everything], values, groups=data.groups)
    return RetrieverEvaluation(
        name=type(retriever).__name__,
        query_ids=data.query_ids,
        values=values,
        means=measured.means,
        latency=Latency.of_seconds(list(hits.seconds.values())),
        without_answer=without,
    )
