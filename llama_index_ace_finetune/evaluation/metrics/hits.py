"""Where in each ranking the right answers stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.qrels import Judgements
from llama_index_ace_finetune.ranking.validate import validate_rankings

_BLOCK = 1 << 20  # comparisons at once


@dataclass(frozen=True, eq=False)
class RightHits:
    """The right hits of all queries, by query and then by rank; all that a measure needs to know of a ranking.

    Attributes:
        judgements: what is right.
        queries: the query of each right hit, int64 [h].
        ranks: its rank from 1, int64 [h].
        grades: its grade, float64 [h].
    """

    judgements: Judgements
    queries: NDArray[np.int64]
    ranks: NDArray[np.int64]
    grades: NDArray[np.float64]

    @property
    def places(self) -> NDArray[np.int64]:
        """How many right hits a query has up to and including this one, int64 [h]."""
        counts = np.bincount(self.queries, minlength=len(self.judgements))
        return np.arange(1, len(self.queries) + 1) - (np.cumsum(counts) - counts)[self.queries]

    def total(self, weights: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return per query the sum of `weights` [h] over the `chosen` hits [h], float64 [n]."""
        totals = np.bincount(self.queries[chosen], weights[chosen], minlength=len(self.judgements))
        return np.asarray(totals, np.float64)


def find_right_hits(
    rankings: NDArray[np.int32], judgements: Judgements, *, scores: NDArray[np.floating] | None = None
) -> RightHits:
    """Find the right answers of each query in its ranking.

    Each judged row is compared with the whole ranking of its query: with the few right answers that a query has,
    that is far cheaper than to sort or look up every hit.

    Args:
        rankings: corpus rows int [n, depth], best first, padded with -1 at the end.
        judgements: of the same n queries.
        scores: of the hits, float [n, depth]; checked only.

    Raises:
        AceFinetuneError: as `validate_rankings`; where rankings and judgements differ in number; where a query has no
            right answer, since no measure is defined there.
    """
    validate_rankings(rankings, scores=scores)
    if len(rankings) != len(judgements):
        raise AceFinetuneError(
            f"There are rankings for {len(rankings)} queries and judgements for {len(judgements)}; bring both in line."
        )
    without = np.flatnonzero(judgements.answers == 0)
    if len(without):
        raise AceFinetuneError(
            f"{len(without)} of {len(judgements)} queries have no right answer, the first at place {without[0]}; "
            "leave them out or judge them."
        )
    depth = rankings.shape[1]
    queries, rows = judgements.queries, judgements.rows
    block = max(1, _BLOCK // max(depth, 1))
    found = [np.empty(0, np.int64)]
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        found.append(np.flatnonzero(rankings[queries[part]] == rows[part, None]) + start * depth)
    judged, columns = np.divmod(np.concatenate(found), max(depth, 1))
    order = np.lexsort((columns, queries[judged]))
    return RightHits(judgements, queries[judged[order]], columns[order] + 1, judgements.grades[judged[order]])
