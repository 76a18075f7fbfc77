"""Convex combination of normalised scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.aligned_legs import AlignedLegs
from llama_index_ace_finetune.ranking.validate import validate_rankings

Normalisation = Literal["min-max", "z"]


@dataclass(frozen=True, eq=False)
class ScoredLeg:
    """Rankings of one leg with scores.

    Attributes:
        rankings: corpus rows int32 [n, depth], best first, padded with -1.
        scores: float [n, depth]; scores of padding are ignored.
        floor: the smallest possible score of the leg, such as -1 for a cosine and 0 for BM25. If set, min-max uses it
            instead of the lowest score in the ranking.
    """

    rankings: NDArray[np.int32]
    scores: NDArray[np.floating]
    floor: float | None = None


def normalise_scores(leg: ScoredLeg, normalisation: Normalisation = "min-max") -> NDArray[np.float64]:
    """Return the scores of a leg, normalised per query, float64 [n, depth], 0 for padding.

    "min-max": (score - low) / (highest - low), where low is the floor or the lowest score of the hits; if all scores
    are equal, they become 1. "z": (score - mean) / standard deviation of the hits, shifted so that the lowest is 0,
    since a row that is not a hit gets 0; if all scores are equal, they become 0.

    Source: min-max from the floor, Bruch, Gai, Ingber, "An analysis of fusion functions for hybrid retrieval",
    TOIS 2023.

    Raises:
        AceFinetuneError: see `validate_rankings`; for an infinite score, a score below the floor, or an unknown
            normalisation.
    """
    if normalisation not in ("min-max", "z"):
        raise AceFinetuneError(f"The normalisation is {normalisation!r}; it must be min-max or z.")
    validate_rankings(leg.rankings, scores=leg.scores)
    hits = leg.rankings >= 0
    scores = np.where(hits, np.asarray(leg.scores, np.float64), 0.0)
    if not np.isfinite(scores).all():
        raise AceFinetuneError("A score of a leg is infinite, so it cannot be normalised; fix the scores of the leg.")
    some = hits.any(axis=1, keepdims=True)
    highest = np.where(hits, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    lowest = np.where(hits, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    highest, lowest = np.where(some, highest, 0.0), np.where(some, lowest, 0.0)
    if normalisation == "z":
        count = np.maximum(hits.sum(axis=1, keepdims=True), 1)
        mean = scores.sum(axis=1, keepdims=True) / count
        deviation = np.sqrt((np.where(hits, scores - mean, 0.0) ** 2).sum(axis=1, keepdims=True) / count)
        scale = np.where(highest > lowest, deviation, 1.0)
        return np.where(hits, (scores - lowest) / np.where(scale > 0, scale, 1.0), 0.0)
    if leg.floor is not None:
        # A cosine may be below -1 by rounding.
        if (lowest[some] < leg.floor - 1e-5).any():
            raise AceFinetuneError(
                f"A leg has a score below its floor {leg.floor:g}; set the floor to its smallest possible score."
            )
        lowest = np.minimum(np.full_like(lowest, leg.floor), highest)
    span = highest - lowest
    return np.where(hits, np.where(span > 0, (scores - lowest) / np.where(span > 0, span, 1.0), 1.0), 0.0)


def align_convex(legs: Sequence[ScoredLeg], *, normalisation: Normalisation = "min-max") -> AlignedLegs:
    """Align the normalised scores of the legs; fuse them with weights that sum to 1."""
    return AlignedLegs.of([leg.rankings for leg in legs], [normalise_scores(leg, normalisation) for leg in legs])


def fuse_convex(
    legs: Sequence[ScoredLeg], *, weights: Sequence[float], normalisation: Normalisation = "min-max", limit: int = 100
) -> NDArray[np.int32]:
    """Fuse rankings by the weighted sum of normalised scores.

    Args:
        legs: legs over the same queries and corpus.
        weights: one per leg, 0 or more; only their ratio matters.
        normalisation: see `normalise_scores`.
        limit: columns of the result.

    Returns:
        Corpus rows int32 [n, limit], best first, ties ordered by row, padded with -1.

    Raises:
        AceFinetuneError: see `normalise_scores` and `AlignedLegs`.
    """
    return align_convex(legs, normalisation=normalisation).fuse(weights, limit=limit)
