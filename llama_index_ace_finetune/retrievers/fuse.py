"""Fuse the legs of one query: by ranks, or by the exact scores of all candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.candidate_scores import CandidateScores
from llama_index_ace_finetune.ranking.fusion_settings import RERANKING_LEGS, Leg
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import reciprocal_rank_fusion
from llama_index_ace_finetune.retrievers.legs.leg_hit import LegHit

_FLOORS: Final[Mapping[Leg, float]] = {"dense": -1.0, "base": -1.0, "late": -1.0}


@dataclass(frozen=True)
class FusedMemory:
    """A memory in a fused ranking.

    score: the fused score, in [0, 1]. rrf: the unscaled one of reciprocal rank fusion. leg_scores, leg_ranks: of the
    legs, by name.
    """

    node_id: str
    score: float
    rrf: float | None = None
    leg_scores: dict[str, float] = field(default_factory=dict)
    leg_ranks: dict[str, int] = field(default_factory=dict)


def candidate_ids(hits: Mapping[Leg, Sequence[LegHit]]) -> list[str]:
    """Return the node ids that any leg found, ascending, so that ties are ordered by id."""
    return sorted({hit.node_id for found in hits.values() for hit in found})


def fuse_by_rank(hits: Mapping[Leg, Sequence[LegHit]], weights: Mapping[Leg, float], *, k: int) -> list[FusedMemory]:
    """Return the memories by `reciprocal_rank_fusion`, best first, ties by node id."""
    ids = candidate_ids(hits)
    row = {node_id: number for number, node_id in enumerate(ids)}
    fused = reciprocal_rank_fusion(
        [[row[hit.node_id] for hit in found] for found in hits.values()], weights=[weights[leg] for leg in hits], k=k
    )
    scores, ranks = _scores(hits), _ranks(hits)
    return [
        FusedMemory(ids[hit.row], hit.scaled, hit.score, scores.get(ids[hit.row], {}), ranks.get(ids[hit.row], {}))
        for hit in fused
    ]


def fuse_by_score(
    hits: Mapping[Leg, Sequence[LegHit]],
    ids: Sequence[str],
    scores: Mapping[Leg, NDArray[np.float64]],
    weights: Mapping[Leg, float],
) -> list[FusedMemory]:
    """Return the memories by the weighted sum of normalised scores, as the evaluation (`CandidateScores`).

    Args:
        hits: of the legs that retrieve.
        ids: `candidate_ids` of the hits.
        scores: the score of each of the ids in each leg, float64 [len(ids)].
        weights: of these legs, above 0; only their ratio matters.
    """
    if not ids:
        return []
    legs = list(scores)
    place = {node_id: number for number, node_id in enumerate(ids)}
    table = np.stack([scores[leg] for leg in legs])[:, None]
    found = np.zeros(table.shape, bool)
    for number, leg in enumerate(legs):
        found[number, 0, [place[hit.node_id] for hit in hits.get(leg, ())]] = True
    # The best memory of a leg is one of its hits, so the highest candidate is the highest of the store.
    highest = np.array([[np.nan if leg in RERANKING_LEGS else table[number].max()] for number, leg in enumerate(legs)])
    candidates = CandidateScores(
        np.arange(len(ids))[None], table, found, highest, tuple(_FLOORS.get(leg, 0.0) for leg in legs)
    )
    rows, sums = candidates.fuse([weights[leg] for leg in legs], limit=len(ids))
    ranks, by_leg = _ranks(hits), {leg: scores[leg].tolist() for leg in legs}
    return [
        FusedMemory(
            ids[row], total, None, {leg: values[row] for leg, values in by_leg.items()}, ranks.get(ids[row], {})
        )
        for row, total in zip(rows[0].tolist(), sums[0].tolist(), strict=True)
        if row >= 0
    ]


def _scores(hits: Mapping[Leg, Sequence[LegHit]]) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    for leg, found in hits.items():
        for hit in found:
            scores.setdefault(hit.node_id, {})[leg] = hit.score
    return scores


def _ranks(hits: Mapping[Leg, Sequence[LegHit]]) -> dict[str, dict[str, int]]:
    ranks: dict[str, dict[str, int]] = {}
    for leg, found in hits.items():
        for hit in found:
            ranks.setdefault(hit.node_id, {})[leg] = hit.rank
    return ranks
