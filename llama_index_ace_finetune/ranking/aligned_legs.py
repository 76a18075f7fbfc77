"""Rankings of several legs, aligned by row, to fuse them with many weights cheaply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.validate import validate_rankings


@dataclass(frozen=True, eq=False)
class AlignedLegs:
    """Gains of every row that any leg returned, per leg. A leg is one retriever of a hybrid, such as dense or BM25.

    Attributes:
        rows: corpus rows int64 [n, u], ascending, padded at the end with the largest int64.
        gains: float64 [legs, n, u]; NaN if the leg did not return the row.
    """

    rows: NDArray[np.int64]
    gains: NDArray[np.float64]

    @classmethod
    def of(cls, legs: Sequence[NDArray[np.int32]], gains: Sequence[NDArray[np.float64]]) -> AlignedLegs:
        """Align rankings int [n, depth], padded with -1, with a gain per hit, float [n, depth].

        Raises:
            AceFinetuneError: see `validate_rankings`; or if the legs rank different numbers of queries.
        """
        if len({len(leg) for leg in legs}) != 1:
            raise AceFinetuneError(
                f"The legs rank {', '.join(str(len(leg)) for leg in legs)} queries; rank the same queries with each."
            )
        for leg in legs:
            validate_rankings(leg)
        rows = np.concatenate(legs, axis=1).astype(np.int64)
        rows[rows < 0] = _PADDING
        origin = np.repeat(np.arange(len(legs)), [leg.shape[1] for leg in legs])
        order = np.argsort(rows, axis=1, kind="stable")
        ordered = np.take_along_axis(rows, order, axis=1)
        new = np.ones(ordered.shape, bool)
        new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        column = np.cumsum(new, axis=1) - 1
        width = int(column.max(initial=-1)) + 1
        distinct = np.full((len(rows), width), _PADDING)
        query = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
        distinct[query, column] = ordered
        table = np.full((len(legs), len(rows), width), np.nan)
        real = ordered != _PADDING
        values = np.take_along_axis(np.concatenate(gains, axis=1), order, axis=1)
        table[origin[order][real], query[real], column[real]] = values[real]
        return cls(distinct, table)

    def fuse(self, weights: Sequence[float], *, limit: int) -> NDArray[np.int32]:
        """Return the rows with the largest weighted sums of gains, int32 [n, limit], padded with -1.

        A leg that did not return a row adds 0 to its sum; a leg with weight 0 adds no rows; ties are ordered by row.

        Raises:
            AceFinetuneError: unless there is one weight per leg, each 0 or more.
        """
        if len(weights) != len(self.gains) or min(weights) < 0:
            raise AceFinetuneError(f"The weights are {list(weights)}; give {len(self.gains)} numbers of 0 or more.")
        sums = np.zeros(self.rows.shape)
        returned = np.zeros(self.rows.shape, bool)
        for weight, gains in zip(weights, self.gains, strict=True):
            if weight > 0:
                there = ~np.isnan(gains)
                returned |= there
                sums += np.where(there, weight * gains, 0.0)
        # Rounding keeps mathematically equal sums equal in floating point.
        key = np.where(returned, -np.round(sums, 12), np.inf)
        order = np.argsort(key, axis=1, kind="stable")[:, :limit]
        best = np.where(np.take_along_axis(returned, order, 1), np.take_along_axis(self.rows, order, 1), -1)
        fused = np.full((len(self.rows), limit), -1, np.int32)
        fused[:, : best.shape[1]] = best
        return fused


_PADDING = np.iinfo(np.int64).max
