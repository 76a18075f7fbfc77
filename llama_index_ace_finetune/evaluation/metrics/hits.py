"""The ranks of the relevant documents in each ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.qrels import Qrels
from llama_index_ace_finetune.ranking.validate import validate_rankings

_BLOCK = 1 << 20  # comparisons at once


@dataclass(frozen=True, eq=False)
class RelevantHits:
    """The relevant hits of all queries, by query and then by rank; all that a measure needs from a ranking.

    Attributes:
        qrels: the relevant documents of each query.
        queries: the query of each relevant hit, int64 [h].
        ranks: its rank, from 1, int64 [h].
        grades: its relevance grade, float64 [h].
    """

    qrels: Qrels
    queries: NDArray[np.int64]
    ranks: NDArray[np.int64]
    grades: NDArray[np.float64]

    @property
    def cumulative_counts(self) -> NDArray[np.int64]:
        """Number of relevant hits of the same query up to and including each hit, int64 [h]."""
        counts = np.bincount(self.queries, minlength=len(self.qrels))
        return np.arange(1, len(self.queries) + 1) - (np.cumsum(counts) - counts)[self.queries]

    def total(self, weights: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return per query the sum of `weights` [h] over the `chosen` hits [h], float64 [n]."""
        totals = np.bincount(self.queries[chosen], weights[chosen], minlength=len(self.qrels))
        return np.asarray(totals, np.float64)


def match_qrels(
    rankings: NDArray[np.int32], qrels: Qrels, *, scores: NDArray[np.floating] | None = None
) -> RelevantHits:
    """Find the relevant documents of each query in its ranking.

    Each judged row is compared with the whole ranking of its query: queries have few relevant documents, so this is
    far cheaper than sorting or looking up every hit.

    Args:
        rankings: corpus rows int [n, depth], best first, padded with -1 at the end.
        qrels: of the same n queries.
        scores: of the hits, float [n, depth]; only validated.

    Raises:
        AceFinetuneError: as `validate_rankings`; if rankings and qrels differ in number; if a query has
            no relevant document, since measures are undefined for it.
    """
    validate_rankings(rankings, scores=scores)
    if len(rankings) != len(qrels):
        raise AceFinetuneError(
            f"There are rankings for {len(rankings)} queries and qrels for {len(qrels)}; use the same queries."
        )
    without = np.flatnonzero(qrels.relevant_counts == 0)
    if len(without):
        raise AceFinetuneError(
            f"{len(without)} of {len(qrels)} queries have no relevant document, the first is query {without[0]}; "
            "leave them out or judge them."
        )
    depth = rankings.shape[1]
    queries, rows = qrels.queries, qrels.rows
    block = max(1, _BLOCK // max(depth, 1))
    found = [np.empty(0, np.int64)]
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        found.append(np.flatnonzero(rankings[queries[part]] == rows[part, None]) + start * depth)
    judged, columns = np.divmod(np.concatenate(found), max(depth, 1))
    order = np.lexsort((columns, queries[judged]))
    return RelevantHits(qrels, queries[judged[order]], columns[order] + 1, qrels.grades[judged[order]])
