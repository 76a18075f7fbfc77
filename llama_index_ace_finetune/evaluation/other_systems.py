"""Systems that are not ours: any LlamaIndex retriever, and saved TREC runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.evaluation.retriever_hits import retrieve_all
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System
from llama_index_ace_finetune.evaluation.trec_run import TrecRun, rankings_of, read_run

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever


def retriever_system(dataset: RetrievalDataset, data: EvaluationSet, retriever: BaseRetriever, *, name: str) -> System:
    """Rank by a LlamaIndex retriever, which gives as many hits as it does.

    Raises:
        AceFinetuneError: if the retriever fails, naming the query.
    """
    return System(name=name, kind="retriever", rankings=retrieve_all(retriever, dataset, data).rankings)


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
