"""CandidateLegs: all legs that can be served with one embedding model, over the queries of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.latency import Latency
from llama_index_ace_finetune.evaluation.systems import EncodedSet, EvaluationSet
from llama_index_ace_finetune.late_interaction.max_sim import max_sim
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.ranking.candidate_scores import CandidateScores
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.ranking.further_vectors import FurtherVectorLeg, FurtherVectors
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.ranking.postings_index import PostingsIndex
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import FUSION_DEPTH
from llama_index_ace_finetune.ranking.scoring_legs import DenseLeg, LexicalLeg, ScoringLeg, candidate_scores
from llama_index_ace_finetune.ranking.sparse_index import SparseIndex


@dataclass(frozen=True, eq=False)
class LateLeg:
    """MaxSim of the queries' token vectors and the stored ones, whose rows are those of the corpus."""

    queries: TokenVectors
    reranker: TokenReranker
    floor: ClassVar[float] = -1.0
    retrieves: ClassVar[bool] = False

    def rankings(self, depth: int) -> NDArray[np.int32]:
        """Late interaction retrieves nothing."""
        return np.full((len(self.queries), 0), -1, np.int32)

    def scores(self, query: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `ScoringLeg`."""
        return max_sim(self.queries[query], self.reranker.store.tokens, rows)


@dataclass(frozen=True, eq=False)
class CandidateLegs:
    """The legs that can be served with one embedding model.

    Attributes:
        data: all queries, and the corpus.
        lexical: an index of the stored texts per lexical leg, and of the sparse encoder if there is one.
        dense: vectors of the served model.
        base: vectors of the base model beside a tuned one; None if the base is served.
        reranker: token vectors of the corpus, by row, of the served model; None without late interaction.
        windows: vectors of the windows of long texts, of the served model; None if no text is that long.
    """

    data: EvaluationSet
    lexical: Mapping[Leg, PostingsIndex[Any]]
    dense: EncodedSet
    base: EncodedSet | None = None
    reranker: TokenReranker | None = None
    windows: FurtherVectors | None = None

    @property
    def available(self) -> tuple[Leg, ...]:
        """All legs."""
        base: tuple[Leg, ...] = ("base",) if self.base else ()
        late: tuple[Leg, ...] = ("late",) if self.reranker else ()
        return ("dense", *base, *self.lexical, *late)

    def table(self, legs: Sequence[Leg], queries: slice, *, further: Sequence[FurtherVectors] = ()) -> CandidateScores:
        """Return the union of the legs' hits with all their scores, without each query's own document.

        `further` vectors of the served model, such as known queries, are the last legs, for `merge_further_vectors`.
        """
        own = None if self.data.own is None else self.data.own[queries]
        searched = [self._leg(leg, queries) for leg in legs]
        searched += [FurtherVectorLeg(self.dense.queries[queries], one, self.data.copies) for one in further]
        return candidate_scores(searched, own=own, copies=self.data.copies)

    def _leg(self, leg: Leg, queries: slice) -> ScoringLeg:
        if leg == "dense":
            return DenseLeg(self.dense.queries[queries], self.dense.corpus, self.data.copies)
        if leg == "base" and self.base:
            return DenseLeg(self.base.queries[queries], self.base.corpus, self.data.copies)
        if leg == "late" and self.reranker and self._query_tokens is not None:
            chosen = np.arange(len(self.data.queries))[queries]
            return LateLeg(self._query_tokens.select(chosen), self.reranker)
        if leg in self.lexical:
            return LexicalLeg(self.lexical[leg], self.data.queries[queries], self.data.copies)
        raise AceFinetuneError(f"The leg {leg!r} was not evaluated; the legs are {', '.join(self.available)}.")

    @cached_property
    def _query_tokens(self) -> TokenVectors | None:
        """The token vectors of all queries in float32, as they are served; encoded once for all tables."""
        if self.reranker is None:
            return None
        tokens = self.reranker.encoder
        return TokenEncoder(tokens.encoder.in_float32(), tokens.projection).encode_queries(self.data.queries)

    def milliseconds(self, queries: int) -> dict[Leg, float]:
        """Return the median time of each leg per query over the first `queries`; empty for none.

        Encoding is included for the sparse encoder only: the time of an embedding model is measured apart.
        """
        numbers = range(min(queries, len(self.data.queries)))
        found = {leg: Latency.of(self._one_query(leg, len(numbers)), numbers) for leg in self.available}
        return {leg: one.p50_ms for leg, one in found.items() if one}

    def window_cost(self, queries: int) -> tuple[float | None, float]:
        """Return the median milliseconds that comparing windows adds per query, and their bytes per memory."""
        if self.windows is None:
            return 0.0, 0.0
        windows, vectors = self.windows, self.dense.queries
        found = Latency.of(
            lambda query: windows.best(vectors[query : query + 1], FUSION_DEPTH), range(min(queries, len(vectors)))
        )
        return found.p50_ms if found else None, windows.vectors.nbytes / max(len(self.data.stored), 1)

    def _one_query(self, leg: Leg, count: int) -> Any:
        made = self._leg(leg, slice(0, count))
        if isinstance(made, LexicalLeg) and isinstance(index := made.index, SparseIndex):
            return lambda query: index.search_uncached(made.queries[query], FUSION_DEPTH)
        if isinstance(made, DenseLeg):
            return lambda query: dense_top_k(made.queries[query : query + 1], made.documents, FUSION_DEPTH)
        if isinstance(made, LexicalLeg):
            return lambda query: made.index.search(made.queries[query], FUSION_DEPTH)
        # The candidates of late interaction are about the hits of two legs.
        hits = dense_top_k(self.dense.queries[:count], self.dense.corpus, 2 * FUSION_DEPTH)[0].astype(np.int64)
        return lambda query: made.scores(query, hits[query])

    def bytes_per_memory(self) -> dict[Leg, float]:
        """Return what each leg stores per memory, in bytes."""
        stored: dict[Leg, float] = {leg: index.bytes_per_row for leg, index in self.lexical.items()}
        stored["dense"] = float(self.dense.corpus.itemsize * self.dense.corpus.shape[1])
        if self.base:
            stored["base"] = float(self.base.corpus.itemsize * self.base.corpus.shape[1])
        if self.reranker:
            stored["late"] = self.reranker.store.bytes_per_memory
        return stored
