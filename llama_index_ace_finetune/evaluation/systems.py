"""The retrieval systems that an evaluation compares, each as rankings over one corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.ranking.fusion import RRF_K, fuse_rankings

DEPTH = 100
SystemKind = Literal["bm25", "dense", "hybrid"]


@dataclass(frozen=True)
class EvaluationSet:
    """Queries with their right answers as corpus rows, over the full corpus of distinct answers.

    Attributes:
        query_ids: one per query.
        queries: texts.
        corpus_ids: answer ids; a row number in a ranking is a place in this list.
        corpus: texts.
        relevant: right rows of each query.
    """

    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    corpus_ids: tuple[str, ...]
    corpus: tuple[str, ...]
    relevant: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, dataset: RetrievalDataset, query_ids: Sequence[str]) -> EvaluationSet:
        """Return the queries with these ids over the dataset's whole corpus."""
        row_of = {identifier: row for row, identifier in enumerate(dataset.answers)}
        return cls(
            query_ids=tuple(query_ids),
            queries=tuple(dataset.queries[query_id].text for query_id in query_ids),
            corpus_ids=tuple(dataset.answers),
            corpus=tuple(memory.text for memory in dataset.answers.values()),
            relevant=tuple(
                np.array(sorted(row_of[answer] for answer in dataset.relevant(query_id)), np.int64)
                for query_id in query_ids
            ),
        )

    @property
    def groups(self) -> list[str]:
        """What queries are resampled with: the first right answer."""
        return [
            self.corpus_ids[int(rows[0])] if len(rows) else query
            for rows, query in zip(self.relevant, self.query_ids, strict=True)
        ]


@dataclass(frozen=True)
class System:
    """One system's rankings: corpus rows int32 [n, depth], best first, padded with -1.

    `cosine` holds the query's cosine with its (best) right answer, for dense systems.
    """

    name: str
    kind: SystemKind
    rankings: NDArray[np.int32]
    model: str = ""
    weights: tuple[float, float] | None = None
    cosine: NDArray[np.float32] | None = None


def bm25_system(data: EvaluationSet, *, depth: int = DEPTH) -> System:
    """Rank by BM25; a memory that shares no word with the query is not in the ranking."""
    rankings, _ = BM25Index.build(data.corpus).search_batch(list(data.queries), depth)
    return System(name="BM25", kind="bm25", rankings=rankings)


def dense_system(
    data: EvaluationSet,
    encoder: Encoder,
    *,
    name: str,
    cache: Path | None = None,
    depth: int = DEPTH,
    progress: Progress | None = None,
) -> System:
    """Rank by the cosine of an embedding model, queries and corpus both embedded with it."""
    queries = encoder.encode(data.queries, role="query", cache=cache, progress=progress)
    corpus = encoder.encode(data.corpus, role="document", cache=cache, progress=progress)
    rankings, _ = dense_top_k(queries, corpus, depth)
    cosine = np.array(
        [
            float((corpus[rows] @ vector).max()) if len(rows) else np.nan
            for vector, rows in zip(queries, data.relevant, strict=True)
        ],
        np.float32,
    )
    return System(name=name, kind="dense", rankings=rankings, model=encoder.name, cosine=cosine)


def hybrid_system(dense: System, lexical: System, *, name: str, weights: tuple[float, float] = (1.0, 1.0)) -> System:
    """Fuse a dense and a lexical ranking by RRF (k = 60) with weights (dense, lexical)."""
    rankings = fuse_rankings([dense.rankings, lexical.rankings], weights=weights, k=RRF_K, limit=DEPTH)
    return System(name=name, kind="hybrid", rankings=rankings, model=dense.model, weights=weights)
