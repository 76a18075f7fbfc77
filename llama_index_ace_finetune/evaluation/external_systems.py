"""Systems that are not ours: any LlamaIndex retriever, and saved TREC runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.evaluation.metrics.trec_run import TrecRun, read_run, run_to_rankings
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever
import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError, first_line
from llama_index_ace_finetune.mining.retriever_source import RetrieverError, RetrieverSource
from llama_index_ace_finetune.mining.sources import UNKNOWN
from llama_index_ace_finetune.ranking.own_documents import without_own

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore


@dataclass
class RetrieverHits:
    """Hits of each query, collected one by one.

    Attributes:
        source: maps a hit to its corpus row.
        corpus: number of corpus rows.
        own: the row of the query itself, for queries that are in the corpus; not a hit (`EvaluationSet.own`).
        rows: per query, its distinct corpus rows, best first.
        seconds: per query, the duration of the call.
    """

    source: RetrieverSource
    corpus: int
    own: NDArray[np.int64] | None = None
    rows: dict[int, list[int]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    def add(self, number: int, hits: Sequence[NodeWithScore], seconds: float) -> None:
        """Store the hits of query `number`.

        Of a repeated document only the best rank counts. A hit that is not in the corpus is not relevant; it keeps
        its rank, as a row beyond the corpus.
        """
        found = dict.fromkeys(
            self.corpus + place if row == UNKNOWN else row for place, row in enumerate(map(self.source.row, hits))
        )
        self.rows[number], self.seconds[number] = list(found), seconds

    @property
    def rankings(self) -> NDArray[np.int32]:
        """Rows int32 [n, most hits], best first, padded with -1."""
        rankings = np.full((len(self.rows), max(map(len, self.rows.values()), default=0)), -1, np.int32)
        for number, found in self.rows.items():
            rankings[number, : len(found)] = found
        return without_own(rankings, self.own, limit=rankings.shape[1])[0]


def retrieve_all(retriever: BaseRetriever, dataset: RetrievalDataset, data: EvaluationSet) -> RetrieverHits:
    """Run the retriever on one query after the other.

    Raises:
        RetrieverError: if the retriever fails; the error names the query.
    """
    hits = RetrieverHits(RetrieverSource.over(dataset, retriever, data.queries), len(data.corpus), own=data.own)
    for number, query in enumerate(data.queries):
        start = time.perf_counter()
        try:
            hits.add(number, retriever.retrieve(query), time.perf_counter() - start)
        except Exception as error:
            raise _failure(retriever, query, error) from error
    return hits


async def aretrieve_all(
    retriever: BaseRetriever, dataset: RetrievalDataset, data: EvaluationSet, *, concurrency: int
) -> RetrieverHits:
    """Run the retriever on at most `concurrency` queries at a time; the first failure stops the others.

    Raises:
        RetrieverError: if the retriever fails; the error names the query.
        AceFinetuneError: for a concurrency below 1.
    """
    if concurrency < 1:
        raise AceFinetuneError(f"The concurrency is {concurrency}; it must be 1 or more.")
    hits = RetrieverHits(RetrieverSource.over(dataset, retriever, data.queries), len(data.corpus), own=data.own)

    async def work(waiting: Iterator[tuple[int, str]]) -> None:
        # All workers draw from one iterator, so each query runs once.
        for number, query in waiting:
            start = time.perf_counter()
            try:
                hits.add(number, await retriever.aretrieve(query), time.perf_counter() - start)
            except Exception as error:
                raise _failure(retriever, query, error) from error

    waiting = iter(enumerate(data.queries))
    workers = [asyncio.create_task(work(waiting)) for _ in range(min(concurrency, len(data.queries)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return hits


def _failure(retriever: BaseRetriever, query: str, error: Exception) -> RetrieverError:
    return RetrieverError(
        f"The retriever {type(retriever).__name__} failed for the query {query[:200]!r} ({first_line(error)}); fix "
        "it, or leave that query out."
    )


def retriever_system(dataset: RetrievalDataset, data: EvaluationSet, retriever: BaseRetriever, *, name: str) -> System:
    """Rank with a LlamaIndex retriever, to the depth that it returns.

    Raises:
        AceFinetuneError: if the retriever fails; the error names the query.
    """
    return System(name=name, kind="retriever", rankings=retrieve_all(retriever, dataset, data).rankings)


def run_system(dataset: RetrievalDataset, data: EvaluationSet, path: Path) -> System:
    """Rank by a TREC run file with the dataset's ids; a query that is not in it has an empty ranking and counts as 0.

    Raises:
        DatasetError: for a damaged file, or a run with other ids.
    """
    run = read_run(path)
    strange = next((d for held in run.hits.values() for d, _ in held if d not in dataset.answer_ids), None)
    if strange is not None:
        raise DatasetError(
            f"{path}: document {strange!r:.80} is not in {dataset.name}; give a run with the ids of this dataset."
        )
    # Equal texts count as one document; only the best hit of them counts.
    hits = {query: _first_of_each(held, dataset) for query, held in run.hits.items()}
    rankings, scores = run_to_rankings(
        TrecRun(run.tag, hits), query_ids=data.query_ids, corpus_ids=data.corpus_ids, other_queries=True
    )
    kept, values = without_own(rankings, data.own, limit=rankings.shape[1], scores=scores)
    return System(name=run.tag, kind="run", rankings=kept, scores=values)


def _first_of_each(hits: Sequence[tuple[str, float]], dataset: RetrievalDataset) -> tuple[tuple[str, float], ...]:
    best: dict[str, float] = {}
    for document, score in hits:
        best.setdefault(dataset.answer_ids[document], score)
    return tuple(best.items())
