"""Legs over arrays: rankings of many queries, and the exact scores of given documents, for `CandidateScores`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.candidate_scores import PADDING, CandidateScores
from llama_index_ace_finetune.ranking.copies import Copies
from llama_index_ace_finetune.ranking.dense import exact_cosines, exact_top_k
from llama_index_ace_finetune.ranking.own_documents import own_hits, without_own
from llama_index_ace_finetune.ranking.postings_index import PostingsIndex
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import FUSION_DEPTH


class ScoringLeg(Protocol):
    """A leg over the queries and the corpus that it was made with."""

    @property
    def floor(self) -> float:
        """The smallest possible score: -1 for a cosine or MaxSim, 0 for a sum of postings."""
        ...

    @property
    def retrieves(self) -> bool:
        """False for a leg that only scores the hits of the others, such as late interaction."""
        ...

    def rankings(self, depth: int) -> NDArray[np.int32]:
        """Return corpus rows int32 [n, <= depth], best first, ties by row, padded with -1.

        With copies, a hit is a memory, so the row of a text occurs once for each of its copies.
        """
        ...

    def scores(self, query: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the exact scores of some corpus rows, float64 [len(rows)], for the query at a position."""
        ...


@dataclass(frozen=True, eq=False)
class DenseLeg:
    """Cosines of query vectors float32 [n, d] and document vectors float32 [m, d], both of unit length."""

    queries: NDArray[np.float32]
    documents: NDArray[np.float32]
    copies: Copies | None = None
    floor: ClassVar[float] = -1.0
    retrieves: ClassVar[bool] = True

    def rankings(self, depth: int) -> NDArray[np.int32]:
        """See `ScoringLeg`; cosines that are equal up to rounding tie, as in serving."""
        found, cosines = exact_top_k(self.queries, self.documents, depth)
        if self.copies is None:
            return found
        ranked = np.empty((len(found), min(depth, len(self.copies.rows))), np.int32)
        for query, rows in enumerate(found.astype(np.int64)):
            ids, counts = self.copies.memories(rows), self.copies.counts[rows]
            order = np.lexsort((ids, -np.repeat(cosines[query], counts)))
            ranked[query] = np.repeat(found[query], counts)[order][: ranked.shape[1]]
        return ranked

    def scores(self, query: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `ScoringLeg`."""
        return exact_cosines(self.documents[rows], self.queries[query])


@dataclass(frozen=True, eq=False)
class LexicalLeg:
    """Scores of a lexical index (BM25, character n-grams) whose rows are those of the corpus, or all its copies.

    The constant that BM25's variant `plus` adds to every document is left out, so that a document without a term of the
    query scores 0.
    """

    index: PostingsIndex[Any]
    queries: Sequence[str]
    copies: Copies | None = None
    floor: ClassVar[float] = 0.0
    retrieves: ClassVar[bool] = True

    def rankings(self, depth: int) -> NDArray[np.int32]:
        """See `ScoringLeg`."""
        found = self.index.search_batch(self.queries, depth)[0]
        return found if self.copies is None else self.copies.corpus_rows(found)

    def scores(self, query: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `ScoringLeg`."""
        rows = rows if self.copies is None else self.copies.first[rows]
        return self.index.score(self.queries[query], rows, shifted=False)


def candidate_scores(
    legs: Sequence[ScoringLeg],
    *,
    depth: int = FUSION_DEPTH,
    own: NDArray[np.int64] | None = None,
    copies: Copies | None = None,
) -> CandidateScores:
    """Return the union of the first `depth` hits of each leg, with every leg's exact score of each.

    Args:
        legs: over the same queries and corpus; at least one that retrieves.
        depth: hits of each leg that become candidates.
        own: row of each query's own document, int64 [n], -1 without one, which is no candidate; None if no query has
            one.
        copies: those of the legs.

    Raises:
        AceFinetuneError: if no leg retrieves.
    """
    most = depth + own_hits(own, copies)
    found = {
        number: without_own(leg.rankings(most), own, limit=depth)[0].astype(np.int64)
        for number, leg in enumerate(legs)
        if leg.retrieves
    }
    if not found:
        raise AceFinetuneError("No leg retrieves candidates; add one besides late interaction.")
    hits = [np.unique(np.concatenate(each)) for each in zip(*found.values(), strict=True)]
    hits = [rows[rows >= 0] for rows in hits]
    shape = len(legs), len(hits), max(map(len, hits), default=0)
    rows = np.full(shape[1:], PADDING)
    scores, returned = np.zeros(shape), np.zeros(shape, bool)
    for query, candidates in enumerate(hits):
        rows[query, : len(candidates)] = candidates
        for number, leg in enumerate(legs):
            scores[number, query, : len(candidates)] = leg.scores(query, candidates)
            if number in found:
                returned[number, query, : len(candidates)] = np.isin(candidates, found[number][query])
    # A leg's best document is among its hits, so the highest candidate is the highest of the corpus.
    highest = np.where(rows != PADDING, scores, -np.inf).max(axis=2, initial=-np.inf)
    retrieves = np.array([leg.retrieves for leg in legs])[:, None]
    return CandidateScores(
        rows, scores, returned, np.where(retrieves & np.isfinite(highest), highest, np.nan),
        tuple(leg.floor for leg in legs),
    )  # fmt: skip
