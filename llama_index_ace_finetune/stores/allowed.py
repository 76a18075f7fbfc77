"""Which rows of an in-process index a filter leaves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.stores.point_ids import PointKey

_KEPT = 16


class AllowedRows:
    """Turns sets of point ids into row numbers, and remembers the last few, since the same filters come again."""

    def __init__(self) -> None:
        # The set is kept beside its rows, so that its identity stays its own.
        self._known: OrderedDict[tuple[int, int], tuple[frozenset[PointKey], NDArray[np.int64]]] = OrderedDict()

    def rows(self, allowed: frozenset[PointKey], row_of: Mapping[PointKey, int], version: int) -> NDArray[np.int64]:
        """Return the rows of the allowed points in ascending order; `version` names the state of `row_of`."""
        key = (id(allowed), version)
        if key not in self._known:
            found = (row_of.get(point) for point in allowed)
            rows = np.array(sorted(row for row in found if row is not None), np.int64)
            self._known[key] = (allowed, rows)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[key][1]
