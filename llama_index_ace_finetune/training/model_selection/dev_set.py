"""Dev queries ranked during and after training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.metrics.measures import HEADLINE, MRR, per_query
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.ranking.own_documents import NO_ROW, without_own
from llama_index_ace_finetune.training.data.examples import IndexedExamples

_MEASURED = 128


def encoding_seconds(encode: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> float:
    """Return the seconds that `encode(texts)` would take, by some texts from all over them."""
    some = texts[:: max(1, len(texts) // _MEASURED)][:_MEASURED]
    if not some:
        return 0.0
    start = time.perf_counter()
    encode(some)
    return (time.perf_counter() - start) * len(texts) / len(some)


DEPTH = 10
POOL_QUERIES = 200
POOL_DEPTH = 5


@dataclass(frozen=True)
class DevScores:
    """One model on dev: per-query MRR@10 float [n], headline means by name, and rankings int32 [n, depth].

    `max_sim` is the per-query MRR@10 float [n] after re-ranking by MaxSim, and `documents` the document vectors float32
    [m, d] that were ranked; None if not known.
    """

    mrr: NDArray[np.float64]
    means: dict[str, float] = field(default_factory=dict)
    rankings: NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 0), np.int32))
    max_sim: NDArray[np.float64] | None = None
    documents: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class DevSet:
    """The dev queries, on which models and settings are selected; never the test queries."""

    examples: IndexedExamples

    @property
    def groups(self) -> list[str]:
        """Resampling group of each query: its first positive."""
        return [self.examples.corpus_ids[int(rows[0])] for rows in self.examples.relevant]

    def score(self, encoder: Encoder) -> DevScores:
        """Rank the corpus for every dev query with `encoder`."""
        queries = encoder.encode_queries(self.examples.queries)
        documents = encoder.encode_documents(self.examples.corpus)
        return replace(self.rank(queries, documents), documents=documents)

    def score_seconds(self, encoder: Encoder) -> float:
        """Return an estimate of the seconds that `score` takes."""
        queries = encoding_seconds(encoder.encode_queries, self.examples.queries)
        return queries + encoding_seconds(encoder.encode_documents, self.examples.corpus)

    def rank(self, queries: NDArray[np.float32], documents: NDArray[np.float32]) -> DevScores:
        """Rank documents [m, d] for query vectors [n, d]."""
        rankings = self.without_own(dense_top_k(queries, documents, DEPTH + 1)[0])
        values = {str(measure): per_query(measure, rankings, self.examples.relevant) for measure in HEADLINE}
        return DevScores(
            mrr=values[str(MRR(DEPTH))],
            means={name: float(value.mean()) for name, value in values.items()},
            rankings=rankings,
        )

    def without_own(self, rankings: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the first 10 hits of rankings int32 [n, depth] without each query's own document."""
        return without_own(rankings, self.examples.own, limit=DEPTH)[0]

    def pooled(
        self, rankings: NDArray[np.int32], *, seed: int = 0
    ) -> tuple[DevSet, NDArray[np.int64], NDArray[np.int64]]:
        """Return a smaller set for the evaluations during training, with its rows of the queries and of the corpus.

        It holds at most 200 queries, their positives, and their first 5 hits in `rankings` [n, depth], the base
        model's. If the corpus would not shrink by half, the whole set is returned. The decision to ship is never made
        on a pool, since the base's mistakes are over-represented there.
        """
        examples = self.examples
        count = len(examples.queries)
        chosen = np.sort(np.random.default_rng(seed).permutation(count)[:POOL_QUERIES])
        rows = np.unique(
            np.concatenate([rankings[chosen, :POOL_DEPTH].ravel(), *(examples.relevant[row] for row in chosen)])
        )
        if len(rows) > len(examples.corpus) / 2:
            return self, np.arange(count), np.arange(len(examples.corpus))
        pool = DevSet(
            replace(
                examples,
                query_ids=tuple(examples.query_ids[row] for row in chosen),
                queries=tuple(examples.queries[row] for row in chosen),
                corpus_ids=tuple(examples.corpus_ids[row] for row in rows),
                corpus=tuple(examples.corpus[row] for row in rows),
                relevant=tuple(np.searchsorted(rows, examples.relevant[row]) for row in chosen),
                negatives=tuple(np.empty(0, np.int64) for _ in chosen),
                own=None if examples.own is None else _places(examples.own[chosen], rows),
                judged=(),
                held_out=None,
            )
        )
        return pool, chosen, rows


def _places(own: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of `own` in the ascending `rows`, -1 if absent."""
    place = np.minimum(np.searchsorted(rows, own), len(rows) - 1)
    return np.where(rows[place] == own, place, NO_ROW)
