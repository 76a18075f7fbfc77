"""FlatIndex: exact search over a matrix of vectors in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.dense import exact_cosines
from llama_index_ace_finetune.ranking.top_k import top_k
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.fork import fork_safe_lock

_CACHE_SIZE = 16


class RowFilterCache:
    """Maps sets of point ids to row numbers, and caches the last few, since filters repeat."""

    def __init__(self) -> None:
        # The set is stored beside its rows, so that no other set can get the same `id`.
        self._cache: OrderedDict[tuple[int, int], tuple[frozenset[PointKey], NDArray[np.int64]]] = OrderedDict()

    def rows(self, allowed: frozenset[PointKey], row_of: Mapping[PointKey, int], version: int) -> NDArray[np.int64]:
        """Return the rows of the allowed points in ascending order; `version` names the state of `row_of`."""

        def find(points: frozenset[PointKey]) -> NDArray[np.int64]:
            rows = (row_of.get(point) for point in points)
            return np.array([row for row in rows if row is not None], np.int64)

        return self.find(allowed, find, version)

    def find(
        self, allowed: frozenset[PointKey], find: Callable[[frozenset[PointKey]], NDArray[np.int64]], version: int = 0
    ) -> NDArray[np.int64]:
        """Return the same as `rows`, by a function that finds the rows; negative rows are left out."""
        key = (id(allowed), version)
        if key not in self._cache:
            rows = find(allowed)
            self._cache[key] = (allowed, np.sort(rows[rows >= 0]))
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return self._cache[key][1]


_QUERIES_AT_ONCE = 16
_NOISE = np.float32(2e-6)
_TINY = np.float32(1e-30)


@dataclass(frozen=True)
class _Rows:
    """A snapshot of the matrix; readers keep theirs while a writer makes the next one.

    vectors: float32 [capacity, dimension], of which the first `count` rows are in use; points, ids: point ids and node
    ids of the rows; deleted: rows that were replaced or deleted, bool [count].
    """

    vectors: NDArray[np.float32]
    count: int
    points: list[PointKey]
    ids: list[str]
    deleted: NDArray[np.bool_]


class FlatIndex:
    """Exact search for the k nearest unit vectors by cosine; ties are ordered by node id.

    Safe to search from several threads, also while another thread upserts or deletes vectors.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._lock = fork_safe_lock()
        self._row_of: dict[PointKey, int] = {}
        self._rows = self._empty()
        self._version = 0
        self._row_filters = RowFilterCache()

    def __len__(self) -> int:
        return len(self._row_of)

    def upsert(self, points: Sequence[PointKey], ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add vectors, float32 [n, dimension], or replace those of existing points."""
        if not len(points):
            return
        with self._lock:
            self._version += 1
            old, first = self._rows, self._rows.count
            count = first + len(points)
            matrix = old.vectors
            if count > len(matrix):
                matrix = np.empty((max(count, len(matrix) * 3 // 2), self._dimension), np.float32)
                matrix[:first] = old.vectors[:first]
            matrix[first:count] = vectors  # rows outside of every reader's snapshot
            deleted = np.concatenate([old.deleted, np.zeros(len(points), np.bool_)])
            for position, point in enumerate(points):
                replaced = self._row_of.get(point)
                if replaced is not None:
                    deleted[replaced] = True
                self._row_of[point] = first + position
            old.points.extend(points)
            old.ids.extend(ids)
            self._rows = self._compact(_Rows(matrix, count, old.points, old.ids, deleted))

    def delete(self, points: Iterable[PointKey]) -> None:
        """Delete points; unknown ones are ignored."""
        with self._lock:
            removed = [row for row in (self._row_of.pop(point, None) for point in points) if row is not None]
            if not removed:
                return
            self._version += 1
            old = self._rows
            deleted = old.deleted.copy()
            deleted[removed] = True
            self._rows = self._compact(_Rows(old.vectors, old.count, old.points, old.ids, deleted))

    def search(
        self, queries: NDArray[np.float32], k: int, *, allowed: frozenset[PointKey] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return, per query, node ids and cosines of the k nearest vectors, best first.

        Args:
            queries: float32 [n, dimension], of any norm but 0.
            k: the largest number of hits per query.
            allowed: search only these points.
        """
        with self._lock:
            rows = self._rows
            kept = None if allowed is None else self._row_filters.rows(allowed, self._row_of, self._version)
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        unit = queries / np.maximum(lengths, _TINY)
        matrix = rows.vectors[: rows.count]
        if kept is not None and 4 * len(kept) < rows.count:
            matrix = matrix[kept]
            selected, kept = kept, None
        else:
            selected = None
        hits = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            block = unit[start : start + _QUERIES_AT_ONCE]
            scores = (matrix @ block[0])[None, :] if len(block) == 1 else block @ matrix.T
            for query, row_scores in zip(queries[start : start + len(block)], scores, strict=True):
                if selected is None:
                    row_scores[rows.deleted] = -np.inf
                    if kept is not None:
                        row_scores = _keep_rows(row_scores, kept)
                found = _candidates(row_scores, k)
                cosines = exact_cosines(matrix[found], query).tolist()
                in_matrix = found if selected is None else selected[found]
                best = zip((rows.ids[row] for row in in_matrix), cosines, strict=True)
                hits.append(sorted(best, key=lambda hit: (-hit[1], hit[0]))[:k])
        return hits

    def cosines(self, query: NDArray[np.float32], keys: Sequence[Sequence[PointKey]]) -> NDArray[np.float64]:
        """Return the cosine of a query [dimension] and each point, float64 [n], as `search` does; NaN without one.

        keys: the possible point ids of each point.
        """
        with self._lock:
            rows, row_of = self._rows, self._row_of
            wanted = np.array([next((row_of[key] for key in each if key in row_of), -1) for each in keys], np.int64)
        found = np.flatnonzero(wanted >= 0)
        cosines = np.full(len(keys), np.nan)
        cosines[found] = exact_cosines(rows.vectors[wanted[found]], query)
        return cosines

    def _empty(self) -> _Rows:
        return _Rows(np.empty((0, self._dimension), np.float32), 0, [], [], np.zeros(0, np.bool_))

    def _compact(self, rows: _Rows) -> _Rows:
        """Remove the deleted rows once they are the majority."""
        alive = np.flatnonzero(~rows.deleted)
        if 2 * len(alive) >= rows.count:
            return rows
        points, ids = [rows.points[row] for row in alive], [rows.ids[row] for row in alive]
        self._row_of = {point: row for row, point in enumerate(points)}
        return _Rows(rows.vectors[alive], len(alive), points, ids, np.zeros(len(alive), np.bool_))


def _keep_rows(scores: NDArray[np.float32], kept: NDArray[np.int64]) -> NDArray[np.float32]:
    masked = np.full_like(scores, -np.inf)
    masked[kept] = scores[kept]
    return masked


def _candidates(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the k best rows above -inf, and those that tie with the last of them."""
    rows = top_k(scores, k, -np.inf)  # type: ignore[arg-type]
    return np.flatnonzero(scores >= scores[rows[-1]] - _NOISE) if len(rows) == k else rows
