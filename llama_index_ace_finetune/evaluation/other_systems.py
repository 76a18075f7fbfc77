"""Systems that are not ours: any LlamaIndex retriever, and saved TREC runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.evaluation.systems import DEPTH, EvaluationSet, System
from llama_index_ace_finetune.evaluation.trec_run import TrecRun, rankings_of, read_run
from llama_index_ace_finetune.mining.retriever_source import RetrieverSource
from llama_index_ace_finetune.mining.sources import NOTHING, UNKNOWN

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever


def retriever_system(
    dataset: RetrievalDataset, data: EvaluationSet, retriever: BaseRetriever, *, name: str, depth: int = DEPTH
) -> System:
    """Rank by a LlamaIndex retriever, which may give fewer hits than `depth`.

    Raises:
        AceFinetuneError: if the retriever fails, naming the query.
    """
    source = RetrieverSource.over(dataset, retriever, data.queries)
    rows, _ = source.search(np.arange(len(data.queries)), depth)
    return System(name=name, kind="retriever", rankings=rankings_of_rows(rows, corpus=len(data.corpus)))


def rankings_of_rows(rows: NDArray[np.int32], *, corpus: int) -> NDArray[np.int32]:
    """Turn what a `CandidateSource` found, int32 [n, depth], into rankings.

    A repeated hit leaves no gap, as only its best place counts. A hit that the corpus does not hold is a wrong hit: it
    keeps its place, as a row beyond the corpus.
    """
    rankings = np.full(rows.shape, -1, np.int32)
    for number, found in enumerate(rows):
        kept = found[found != NOTHING]
        unknown = kept == UNKNOWN
        kept = np.where(unknown, corpus + np.cumsum(unknown) - 1, kept)
        rankings[number, : len(kept)] = kept
    return rankings


def run_system(dataset: RetrievalDataset, data: EvaluationSet, path: Path) -> System:
    """Rank by a TREC run file over the dataset's ids; a query that it lacks has an empty ranking, and counts 0.

    Raises:
        DatasetError: for a damaged file, or a run over other ids.
    """
    run = read_run(path)
    strange = next((d for held in run.hits.values() for d, _ in held if d not in dataset.answer_ids), None)
    if strange is not None:
        raise DatasetError(f"{path}: document {strange!r:.80} is not in {dataset.name}; give a run over the same ids.")
    # Copies of a text are one answer; only the best hit of them counts.
    hits = {query: _first_of_each(held, dataset) for query, held in run.hits.items()}
    rankings, scores = rankings_of(
        TrecRun(run.tag, hits), query_ids=data.query_ids, corpus_ids=data.corpus_ids, other_queries=True
    )
    return System(name=run.tag, kind="run", rankings=rankings, scores=scores)


def _first_of_each(hits: Sequence[tuple[str, float]], dataset: RetrievalDataset) -> tuple[tuple[str, float], ...]:
    best: dict[str, float] = {}
    for document, score in hits:
        best.setdefault(dataset.answer_ids[document], score)
    return tuple(best.items())
