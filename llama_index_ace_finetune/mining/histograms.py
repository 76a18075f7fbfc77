"""Histograms of scores, which show how to set the margins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 40


@dataclass(frozen=True)
class ScoreHistograms:
    """Number of scores per bin.

    Attributes:
        scores: "cosine" or "teacher".
        edges: float64 [bins + 1]; from -1 to 1 for cosines, from the smallest to the largest teacher score.
        positives: int64 [bins], positives.
        kept: int64 [bins], negatives.
        filtered: int64 [bins] per filter, candidates that it rejected.
    """

    scores: str
    edges: NDArray[np.float64]
    positives: NDArray[np.int64]
    kept: NDArray[np.int64]
    filtered: Mapping[str, NDArray[np.int64]]

    def to_dict(self) -> dict[str, Any]:
        """Return the histograms as JSON-compatible values."""
        return {
            "scores": self.scores,
            "edges": [round(edge, 6) for edge in self.edges.tolist()],
            "positives": self.positives.tolist(),
            "kept": self.kept.tolist(),
            "filtered": {name: counts.tolist() for name, counts in self.filtered.items()},
        }


def score_histograms(
    *,
    positives: NDArray[np.float32],
    kept: NDArray[np.float32],
    filtered: Mapping[str, NDArray[np.float32]],
    teacher: bool,
) -> ScoreHistograms:
    """Count scores, float32 arrays [any length]; NaN marks a candidate without a score and is ignored."""
    known = {name: values[~np.isnan(values)] for name, values in filtered.items()}
    positives, kept = positives[~np.isnan(positives)], kept[~np.isnan(kept)]
    edges = np.linspace(-1, 1, _BINS + 1)
    if teacher:
        edges = np.histogram_bin_edges(np.concatenate([positives, kept, *known.values()]).astype(np.float64), _BINS)
    return ScoreHistograms(
        scores="teacher" if teacher else "cosine",
        edges=edges,
        positives=_counts(positives, edges),
        kept=_counts(kept, edges),
        filtered={name: _counts(values, edges) for name, values in known.items()},
    )


def _counts(values: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    # A cosine may exceed 1 by a rounding error.
    clipped = np.clip(values.astype(np.float64), edges[0], edges[-1])
    return np.histogram(clipped, edges)[0].astype(np.int64)
