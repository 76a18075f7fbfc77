"""Candidate: a structure with the reciprocal ranks that each of its weights gives on dev."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.choosing.structures import Structure
from llama_index_ace_finetune.ranking.candidate_scores import PADDING, CandidateScores
from llama_index_ace_finetune.ranking.copies import Copies
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import RRF_K

_DEPTH = 10


@dataclass(frozen=True, eq=False)
class Candidate:
    """A structure and its values on dev.

    Attributes:
        structure: embedding, legs and grid of weights.
        values: MRR@10 of each query with each row of the grid, float64 [w, n].
        milliseconds: per query, encoding included, as measured; None if it was not.
        bytes_per_memory: that its legs store.
    """

    structure: Structure
    values: NDArray[np.float64]
    milliseconds: float | None = None
    bytes_per_memory: float | None = None

    @classmethod
    def of(
        cls,
        structure: Structure,
        legs: Sequence[Leg],
        table: CandidateScores,
        relevant: Sequence[NDArray[np.int64]],
        *,
        copies: Copies | None = None,
    ) -> Candidate:
        """Compute the values of a structure.

        Args:
            structure: its legs are among `legs`.
            legs: of the table.
            table: exact scores of the candidates of n queries.
            relevant: corpus rows of the relevant documents of each query.
            copies: of the texts; None if all are distinct.
        """
        part = table.only([legs.index(leg) for leg in structure.legs])
        right = np.zeros(part.rows.shape, bool)
        for query, rows in enumerate(relevant):
            right[query] = np.isin(part.rows[query], rows)
        total = _RankSums(part, copies) if structure.kind == "rrf" else part.sums
        return cls(structure, np.stack([_reciprocal_ranks(total(weights), right) for weights in structure.grid]))


class _RankSums:
    """The weighted sums of reciprocal ranks (RRF) of a table, as `CandidateScores.sums`; all copies have ranks."""

    def __init__(self, table: CandidateScores, copies: Copies | None = None) -> None:
        values = np.where(table.found, table.scores, -np.inf)
        order = np.argsort(-values, axis=2, kind="stable")
        ranks = np.empty(order.shape)
        memories = np.ones(table.rows.shape)
        if copies is not None:
            there = table.rows != PADDING
            memories[there] = copies.counts[table.rows[there]]
        in_order = np.take_along_axis(np.broadcast_to(memories, order.shape), order, 2)
        # Of copies, the first has the best rank in every leg.
        np.put_along_axis(ranks, order, np.cumsum(in_order, axis=2) - in_order + 1, axis=2)
        self._gains = np.where(table.found, 1 / (RRF_K + ranks), 0.0)
        self._found = table.found.any(axis=0)

    def __call__(self, weights: Sequence[float]) -> NDArray[np.float64]:
        total = np.round(np.tensordot(np.asarray(weights), self._gains, axes=1), 12)
        return np.where(self._found, total, -np.inf)


def _reciprocal_ranks(sums: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 1 / rank of the first relevant row of each query, 0 beyond rank 10, float64 [n]; ties by column.

    Ranks are counted, not sorted: one more than the rows with a higher sum, or an equal one in an earlier column.
    """
    if not sums.shape[1]:
        return np.zeros(len(sums))
    first = np.argmax(np.where(right, sums, -np.inf), axis=1)[:, None]
    best = np.take_along_axis(sums, first, axis=1)
    found = (np.take_along_axis(right, first, axis=1) & np.isfinite(best))[:, 0]
    ranks = 1 + (sums > best).sum(axis=1) + ((sums == best) & (np.arange(sums.shape[1]) < first)).sum(axis=1)
    return np.where(found & (ranks <= _DEPTH), 1 / ranks, 0.0)
