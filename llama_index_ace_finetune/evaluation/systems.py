"""The retrieval systems of an evaluation, each as rankings over one corpus."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.evaluation.metrics.latency import Latency, SystemLatency
from llama_index_ace_finetune.evaluation.metrics.mean_cosine import MeanCosine
from llama_index_ace_finetune.evaluation.metrics.qrels import Qrels
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.copies import Copies, without_copies
from llama_index_ace_finetune.ranking.dense import dense_top_k, exact_top_k
from llama_index_ace_finetune.ranking.fusion_settings import FusionSettings
from llama_index_ace_finetune.ranking.own_documents import NO_ROW, own_hits, without_own
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import (
    FUSION_DEPTH,
    RRF_K,
    fuse_rankings,
    reciprocal_rank_fusion,
)

DEPTH = FUSION_DEPTH
SystemKind = Literal["bm25", "dense", "hybrid", "retriever", "run"]
FusionKind = Literal["", "rrf", "convex"]


@dataclass(frozen=True)
class EvaluationSet:
    """Queries with their relevant documents as corpus rows, over the full corpus of distinct texts.

    Attributes:
        query_ids: one per query.
        queries: texts.
        corpus_ids: document ids; the corpus rows of a ranking index this list.
        corpus: texts.
        relevant: corpus rows of the relevant documents of each query, ascending.
        grades: relevance grades of those rows, float64; None means 1 each.
        own: the row of the query itself if it is also a document, int64 [n], else -1; None if no query is. It is left
            out of the query's ranking.
        copies: of the texts, if the store that serves holds some of them more than once; else None.
    """

    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    corpus_ids: tuple[str, ...]
    corpus: tuple[str, ...]
    relevant: tuple[NDArray[np.int64], ...]
    grades: tuple[NDArray[np.float64], ...] | None = None
    own: NDArray[np.int64] | None = None
    copies: Copies | None = None

    @classmethod
    def of(cls, dataset: RetrievalDataset, query_ids: Sequence[str]) -> EvaluationSet:
        """Return the queries with these ids, over the whole corpus of the dataset."""
        row_of = {identifier: row for row, identifier in enumerate(dataset.answers)}
        graded = _grades(dataset, {dataset.query_groups[query_id] for query_id in query_ids})
        right = [sorted(dataset.relevant(query_id)) for query_id in query_ids]
        groups = [dataset.query_groups[query_id] for query_id in query_ids]
        return cls(
            query_ids=tuple(query_ids),
            queries=tuple(dataset.queries[query_id].text for query_id in query_ids),
            corpus_ids=tuple(dataset.answers),
            corpus=tuple(memory.text for memory in dataset.answers.values()),
            # Rows are in the order of ids, so sorted ids are sorted rows.
            relevant=tuple(np.array([row_of[answer] for answer in answers], np.int64) for answers in right),
            grades=tuple(
                np.array([graded[group, answer] for answer in answers], np.float64)
                for group, answers in zip(groups, right, strict=True)
            ),
            own=_own_rows(dataset, query_ids, row_of),
            copies=_copies(dataset, row_of),
        )

    @property
    def stored(self) -> Sequence[str]:
        """The texts of all memories in the store that serves: `corpus`, or all copies in the order of ids."""
        return self.corpus if self.copies is None else [self.corpus[row] for row in self.copies.rows]

    @cached_property
    def qrels(self) -> Qrels:
        """The relevant documents of each query with their grades."""
        return Qrels.of(self.relevant, self.grades)

    @cached_property
    def groups(self) -> list[str]:
        """The resampling group of each query: its first relevant document."""
        return [
            self.corpus_ids[int(rows[0])] if len(rows) else query
            for rows, query in zip(self.relevant, self.query_ids, strict=True)
        ]


@dataclass(frozen=True)
class System:
    """A system and its rankings: corpus rows int32 [n, depth], best first, padded with -1.

    Attributes:
        name: in reports.
        kind: kind of retrieval.
        rankings: a row beyond the corpus is a hit that is not in the corpus.
        scores: of the hits, float [n, depth], or None if the system has no scores; ignored at padding.
        model: name of the embedding model.
        fusion: fusion method of a hybrid.
        weights: weights of the dense and the BM25 leg of a hybrid of these two.
        trained: whether it needs the tuned model.
        settings: legs, weights and fusion method of a hybrid that is fused by score.
        cosine: mean cosine of each query with its relevant documents, float64 [n], NaN without one; dense systems only.
    """

    name: str
    kind: SystemKind
    rankings: NDArray[np.int32]
    scores: NDArray[np.floating] | None = None
    model: str = ""
    fusion: FusionKind = ""
    weights: tuple[float, float] | None = None
    cosine: NDArray[np.float64] | None = None
    trained: bool = False
    settings: FusionSettings | None = None

    def rows(self, chosen: slice) -> System:
        """Return the system on a slice of its queries."""
        return replace(
            self,
            rankings=self.rankings[chosen],
            scores=None if self.scores is None else self.scores[chosen],
            cosine=None if self.cosine is None else self.cosine[chosen],
        )


def bm25_system(data: EvaluationSet, *, index: BM25Index | None = None, depth: int = DEPTH) -> System:
    """Rank by BM25; only documents that share a term are ranked. `index` is that of `data.stored`, if there is one."""
    index = index or BM25Index.build(data.stored)
    found, values = index.search_batch(list(data.queries), depth + own_hits(data.own, data.copies))
    if data.copies is None:
        rankings, scores = without_own(found, data.own, limit=depth, scores=values)
    else:
        found = data.copies.corpus_rows(found)
        rankings, scores = without_copies(*without_own(found, data.own, limit=depth, scores=values))
    return System(name="BM25", kind="bm25", rankings=rankings, scores=scores)


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """Queries [n, d] and corpus [m, d] of an evaluation set as unit vectors of one model."""

    model: str
    queries: NDArray[np.float32]
    corpus: NDArray[np.float32]

    @classmethod
    def of(
        cls, data: EvaluationSet, encoder: Encoder, *, cache: Path | None = None, progress: Progress | None = None
    ) -> EncodedSet:
        """Encode every text once, queries in float32 as they are served; options are those of `Encoder.encode`."""
        return cls(
            model=encoder.name,
            queries=encoder.in_float32().encode(data.queries, role="query", cache=cache, progress=progress),
            corpus=encoder.encode(data.corpus, role="document", cache=cache, progress=progress),
        )


def dense_system(
    data: EvaluationSet, encoded: EncodedSet, *, name: str, depth: int = DEPTH, trained: bool = False
) -> System:
    """Rank by cosine similarity, as a store does; one model embeds the queries and the corpus."""
    found, values = exact_top_k(encoded.queries, encoded.corpus, depth + own_hits(data.own))
    rankings, scores = without_own(found, data.own, limit=depth, scores=values)
    if data.copies is not None:
        rankings = data.copies.cut(rankings, depth=depth)
    return System(
        name=name,
        kind="dense",
        rankings=rankings,
        scores=scores,
        model=encoded.model,
        cosine=_mean_cosines(encoded.queries, encoded.corpus, data),
        trained=trained,
    )


def hybrid_system(
    dense: System,
    lexical: System,
    *,
    name: str,
    weights: tuple[float, float] = (1.0, 1.0),
    copies: Copies | None = None,
) -> System:
    """Fuse a dense and a lexical ranking by RRF (k = 60) with weights (dense, lexical); all copies have ranks."""
    legs = [dense.rankings, lexical.rankings]
    if copies is not None:
        legs = [copies.expand(leg, limit=DEPTH) for leg in legs]
    rankings = fuse_rankings(legs, weights=weights, k=RRF_K, limit=DEPTH)
    if copies is not None:
        rankings, _ = without_copies(copies.corpus_rows(rankings))
    return System(
        name=name,
        kind="hybrid",
        rankings=rankings,
        model=dense.model,
        fusion="rrf",
        weights=weights,
        trained=dense.trained,
    )


def _copies(dataset: RetrievalDataset, row_of: Mapping[str, int]) -> Copies | None:
    if len(row_of) == len(dataset.memories):
        return None
    return Copies(np.array([row_of[dataset.answer_ids[memory]] for memory in sorted(dataset.memories)], np.int64))


def _own_rows(
    dataset: RetrievalDataset, query_ids: Sequence[str], row_of: Mapping[str, int]
) -> NDArray[np.int64] | None:
    if not dataset.own_documents:
        return None
    own = (dataset.own_answer(query_id) for query_id in query_ids)
    return np.array([NO_ROW if answer is None else row_of[answer] for answer in own], np.int64)


def _mean_cosines(
    queries: NDArray[np.float32], corpus: NDArray[np.float32], data: EvaluationSet
) -> NDArray[np.float64]:
    judged = np.flatnonzero([len(rows) > 0 for rows in data.relevant])
    cosines = np.full(len(queries), np.nan)
    if len(judged):
        own = Qrels.of([data.relevant[row] for row in judged])
        cosines[judged] = MeanCosine().per_query(queries[judged], corpus, own)
    return cosines


def _grades(dataset: RetrievalDataset, groups: Collection[str]) -> dict[tuple[str, str], float]:
    """The highest grade of a document over the queries of a group (queries with equal text)."""
    grades: dict[tuple[str, str], float] = {}
    for query_id, judged in dataset.judgements.items():
        group = dataset.query_groups[query_id]
        if group in groups:
            for memory_id, grade in judged.items():
                key = (group, dataset.answer_ids[memory_id])
                grades[key] = max(grade, grades.get(key, grade))
    return grades


_RESULTS = 10
_LEG_DEPTH = 30  # candidates per leg of the hybrid retriever for 10 results


def time_systems(
    queries: Sequence[str], index: BM25Index, encoders: Mapping[str, Encoder], encoded: Mapping[str, EncodedSet]
) -> dict[str, SystemLatency]:
    """Measure the latency of 10 results for BM25, each model, and each model with BM25; keyed by system name.

    Args:
        queries: texts, timed one by one; nothing is timed if empty.
        index: BM25 index of the corpus.
        encoders: the models by name.
        encoded: per model, the corpus vectors and at least as many query vectors as there are queries.
    """
    lexical = Latency.of(lambda query: index.search(query, _RESULTS), queries)
    latencies = {"BM25": SystemLatency(encode=None, search=lexical)}
    for name, encoder in encoders.items():
        vectors = encoded[name]
        numbers = range(len(queries))

        def encode(query: str, encoder: Encoder = encoder) -> object:
            return encoder.encode([query], role="query")

        def search(number: int, depth: int = _RESULTS, vectors: EncodedSet = vectors) -> list[int]:
            rows, _ = dense_top_k(vectors.queries[number : number + 1], vectors.corpus, depth)
            return [int(row) for row in rows[0]]

        def fuse(number: int, vectors: EncodedSet = vectors) -> object:
            rows, _ = index.search(queries[number], _LEG_DEPTH)
            legs = [search(number, _LEG_DEPTH, vectors), [int(row) for row in rows]]
            return reciprocal_rank_fusion(legs, limit=_RESULTS)

        time_to_encode = Latency.of(encode, queries)
        latencies[name] = SystemLatency(time_to_encode, Latency.of(search, numbers))
        latencies[f"{name} + BM25"] = SystemLatency(time_to_encode, Latency.of(fuse, numbers))
    return {name: one for name, one in latencies.items() if one.search is not None}
