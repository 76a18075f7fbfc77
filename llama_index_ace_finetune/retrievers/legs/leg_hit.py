"""LegHit: a memory that a leg found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LegHit:
    """A hit of a leg: node id, the leg's score, and the rank in the leg, from 1."""

    node_id: str
    score: float
    rank: int


def ranked(hits: Sequence[tuple[str, float]]) -> list[LegHit]:
    """Return hits, given best first, with their ranks."""
    return [LegHit(node_id=node_id, score=score, rank=rank) for rank, (node_id, score) in enumerate(hits, start=1)]
