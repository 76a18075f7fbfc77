"""A list of rows per query, as two arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """Row numbers of all queries end to end, int64 [total], and where each query's begin, int64 [n + 1]."""

    values: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, lists: Sequence[NDArray[np.int64]]) -> Ragged:
        """Lay one array per query end to end."""
        starts = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(rows) for rows in lists], out=starts[1:])
        return cls(np.concatenate([np.empty(0, np.int64), *lists]).astype(np.int64), starts)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each query, int64 [n]."""
        return np.diff(self.starts)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The query of each value, int64 [total]."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def padded(self, first: int, last: int) -> NDArray[np.int64]:
        """Return the queries from `first` to before `last` as a table, int64 [last - first, longest], filled by -1."""
        counts = self.counts[first:last]
        table = np.full((last - first, int(counts.max(initial=0))), -1, np.int64)
        table[np.arange(table.shape[1]) < counts[:, None]] = self.values[self.starts[first] : self.starts[last]]
        return table
