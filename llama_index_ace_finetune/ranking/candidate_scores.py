"""CandidateScores: the exact score of every candidate in every leg, to fuse scores independently of the depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError

PADDING: Final = np.iinfo(np.int64).max
# Decimals of a leg's normalised score: products of another batch size differ in the seventh.
_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """The union of the hits of several legs, with each leg's score of each of them.

    A leg that scores candidates but retrieves none (late interaction) has `found` false everywhere, and a `highest` of
    NaN: its highest score is then that among the candidates.

    Attributes:
        rows: candidates as corpus rows int64 [n, u], ascending, padded at the end with `PADDING`.
        scores: float64 [legs, n, u], exact also for a candidate that the leg itself did not return; any value at
            padding.
        found: whether the leg itself returned the candidate, bool [legs, n, u], False at padding.
        highest: the leg's highest score in the whole corpus, float64 [legs, n]; NaN if it returned nothing.
        floors: the smallest possible score of each leg: -1 for a cosine or MaxSim, 0 for BM25.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    found: NDArray[np.bool_]
    highest: NDArray[np.float64]
    floors: tuple[float, ...]

    def candidates(self, weights: Sequence[float]) -> NDArray[np.bool_]:
        """Return which rows a leg with a weight above 0 returned, bool [n, u]."""
        return np.asarray(self.found[[weight > 0 for weight in weights]].any(axis=0), np.bool_)

    def sums(self, weights: Sequence[float]) -> NDArray[np.float64]:
        """Return the weighted sums of the normalised scores, float64 [n, u], -inf for a row that is no candidate.

        A score is normalised per query to (score - floor) / (highest - floor), at least 0, and 0 for a leg without a
        score above its floor; the sum is divided by the sum of the weights, so that it is at most 1.

        Source: normalisation from the floor, Bruch, Gai, Ingber, "An analysis of fusion functions for hybrid
        retrieval", TOIS 2023.

        Raises:
            AceFinetuneError: unless there is one weight per leg, each 0 or more, one above 0.
        """
        values = np.asarray(weights, np.float64)
        if values.shape != (len(self.floors),) or not (
            np.isfinite(values).all() and (values >= 0).all() and values.any()
        ):
            raise AceFinetuneError(
                f"The weights are {list(weights)}; give {len(self.floors)} numbers of 0 or more, one above 0."
            )
        candidates = self.candidates(weights)
        total = np.zeros(self.rows.shape)
        for leg in np.flatnonzero(values):
            total += values[leg] / values.sum() * self._normalised(int(leg), candidates)
        # Rounding keeps mathematically equal sums equal in floating point.
        return np.where(candidates, np.round(total, 12), -np.inf)

    def fuse(self, weights: Sequence[float], *, limit: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the candidates with the highest sums and those sums.

        Returns:
            Corpus rows int32 [n, limit], best first, ties ordered by row, padded with -1; and `sums` of them, float64
            [n, limit], 0 at padding.

        Raises:
            AceFinetuneError: see `sums`.
        """
        sums = self.sums(weights)
        order = np.argsort(-sums, axis=1, kind="stable")[:, :limit]
        best, rows = np.take_along_axis(sums, order, 1), np.take_along_axis(self.rows, order, 1)
        there = np.isfinite(best)
        fused = np.full((len(sums), limit), -1, np.int32)
        values = np.zeros((len(sums), limit))
        fused[:, : order.shape[1]] = np.where(there, rows, -1)
        values[:, : order.shape[1]] = np.where(there, best, 0.0)
        return fused, values

    def only(self, legs: Sequence[int]) -> CandidateScores:
        """Return the table of some legs, by position, with the rows that these returned only."""
        kept = self.found[legs].any(axis=0)
        width = int(kept.sum(axis=1).max(initial=0))
        order = np.argsort(~kept, axis=1, kind="stable")[:, :width]
        there = np.take_along_axis(kept, order, axis=1)
        scores, found = (
            np.stack([np.take_along_axis(one[leg], order, 1) for leg in legs]) for one in (self.scores, self.found)
        )
        part = CandidateScores(
            rows=np.where(there, np.take_along_axis(self.rows, order, 1), PADDING),
            scores=scores,
            found=found & there,
            highest=self.highest[legs],
            floors=tuple(self.floors[leg] for leg in legs),
        )
        highest = [
            part._highest_among(leg, there) if part._only_scores(leg) else part.highest[leg] for leg in range(len(legs))
        ]
        return replace(part, highest=np.stack(highest))

    def _only_scores(self, leg: int) -> bool:
        """Whether a leg retrieves nothing, so that its highest score is that among the candidates."""
        return bool(np.isnan(self.highest[leg]).all() and not self.found[leg].any())

    def _highest_among(self, leg: int, candidates: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the highest score of each query, float64 [n]."""
        return np.asarray(np.where(candidates, self.scores[leg], -np.inf).max(axis=1, initial=-np.inf), np.float64)

    def _normalised(self, leg: int, candidates: NDArray[np.bool_]) -> NDArray[np.float64]:
        if self._only_scores(leg):
            return self._scaled(leg, self._highest_among(leg, candidates))
        by_corpus: NDArray[np.float64] = self._scaled_by_corpus[leg]
        return by_corpus

    @cached_property
    def _scaled_by_corpus(self) -> NDArray[np.float64]:
        return np.stack([self._scaled(leg, self.highest[leg]) for leg in range(len(self.floors))])

    def _scaled(self, leg: int, highest: NDArray[np.float64]) -> NDArray[np.float64]:
        floor = self.floors[leg]
        span = np.nan_to_num(highest - floor, nan=0.0, posinf=0.0, neginf=0.0)[:, None]
        above = np.where(self.rows != PADDING, self.scores[leg] - floor, 0.0)
        scaled: NDArray[np.float64] = np.where(span > 0, above / np.where(span > 0, span, 1.0), 0.0)
        # BM25's variant okapi can score a match below 0.
        return np.asarray(np.round(np.maximum(scaled, 0.0), _DECIMALS), np.float64)
