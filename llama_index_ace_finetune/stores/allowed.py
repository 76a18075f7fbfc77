"""Which rows of an in-process index a filter leaves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

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

        def find(points: frozenset[PointKey]) -> NDArray[np.int64]:
            found = (row_of.get(point) for point in points)
            return np.array([row for row in found if row is not None], np.int64)

        return self.found(allowed, find, version)

    def found(
        self, allowed: frozenset[PointKey], find: Callable[[frozenset[PointKey]], NDArray[np.int64]], version: int = 0
    ) -> NDArray[np.int64]:
        """Return `rows` where `find` knows the rows; negative ones are left out."""
        key = (id(allowed), version)
        if key not in self._known:
            rows = find(allowed)
            self._known[key] = (allowed, np.sort(rows[rows >= 0]))
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[key][1]
