"""Evaluate any LlamaIndex retriever on a dataset."""

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
    """The result of evaluating a retriever.

    Attributes:
        name: class name of the retriever.
        query_ids: the evaluated queries.
        values: per measure, per-query values float64 [n]; compare two evaluations on the same queries with
            `paired_difference`.
        means: per measure, the mean with its 95% interval, bootstrapped by relevant document.
        latency: of one retrieval.
        without_answer: ids of queries without a relevant document, which were skipped.
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
    """Evaluate a retriever on the queries of a dataset, one after the other.

    A hit is matched to a document by its node id, its `ref_doc_id`, a memory id in its metadata, or its text. Equal
    texts count as one document, and a query without a hit counts as 0. A measure at k needs a retriever that returns
    k hits.

    Args:
        retriever: any LlamaIndex retriever.
        dataset: queries, qrels and corpus.
        query_ids: which queries; by default all that have a relevant document.
        measures: measures, or their names, such as "MRR@10" or "nDCG@5".

    Raises:
        DatasetError: if there is no query to evaluate, or an id is unknown.
        AceFinetuneError: if a measure is unknown, or the retriever fails; the error names the query.
    """
    wanted = _parse_measures(measures)
    data, without = _judged_queries(dataset, query_ids)
    return _evaluation(retriever, data, without, wanted, retrieve_all(retriever, dataset, data))


async def aevaluate_retriever(
    retriever: BaseRetriever,
    dataset: RetrievalDataset,
    *,
    query_ids: Sequence[str] | None = None,
    measures: Sequence[Measure | str] = MEASURES,
    concurrency: int = 8,
) -> RetrieverEvaluation:
    """`evaluate_retriever` with at most `concurrency` queries at a time, using the retriever's `aretrieve`."""
    wanted = _parse_measures(measures)
    data, without = _judged_queries(dataset, query_ids)
    hits = await aretrieve_all(retriever, dataset, data, concurrency=concurrency)
    return _evaluation(retriever, data, without, wanted, hits)


def _parse_measures(measures: Sequence[Measure | str]) -> list[Measure]:
    return [parse_measure(measure) if isinstance(measure, str) else measure for measure in measures]


def _judged_queries(
    dataset: RetrievalDataset, query_ids: Sequence[str] | None
) -> tuple[EvaluationSet, tuple[str, ...]]:
    wanted = list(dataset.queries if query_ids is None else query_ids)
    unknown = next((query_id for query_id in wanted if query_id not in dataset.queries), None)
    if unknown is not None:
        raise DatasetError(f"{dataset.name}: there is no query {unknown!r:.80}; give ids of queries in this dataset.")
    without = tuple(query_id for query_id in wanted if not dataset.relevant(query_id))
    asked = [query_id for query_id in wanted if dataset.relevant(query_id)]
    if not asked:
        raise DatasetError(f"{dataset.name}: none of the queries has a relevant document; add judged queries.")
    return EvaluationSet.of(dataset, asked), without


def _evaluation(
    retriever: BaseRetriever,
    data: EvaluationSet,
    without: tuple[str, ...],
    measures: Sequence[Measure],
    hits: RetrieverHits,
) -> RetrieverEvaluation:
    values = measure_rankings(measures, hits.rankings, data.qrels)
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
