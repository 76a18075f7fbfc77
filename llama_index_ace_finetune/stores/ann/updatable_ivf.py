"""UpdatableIVF: an IVF index on disk, and a flat index of what was written since it was built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.dense import exact_cosines
from llama_index_ace_finetune.stores.ann.flat import FlatIndex, RowFilterCache
from llama_index_ace_finetune.stores.ann.ivf import IVFIndex
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.fork import fork_safe_lock

Batch = tuple[Sequence[PointKey], Sequence[str], NDArray[np.float32]]
_ROUNDING = 2.5e-7


class UpdatableIVF:
    """The interface of `FlatIndex`, for more vectors than can be compared per query.

    The IVF index is never changed. Points that were replaced or deleted since are marked as deleted in it; new vectors
    go into a flat index (the delta), so they are found at once. Safe to search from several threads, also while another
    thread upserts or deletes vectors.
    """

    def __init__(self, ivf: IVFIndex) -> None:
        self._ivf = ivf
        self._delta = FlatIndex(ivf.info.dimension)
        self._deleted = np.zeros(len(ivf), np.bool_)
        self._lock = fork_safe_lock()
        self._row_filters = RowFilterCache()

    def __len__(self) -> int:
        return int(len(self._ivf) - self._deleted.sum()) + len(self._delta)

    @property
    def ivf(self) -> IVFIndex:
        """The index on disk."""
        return self._ivf

    @property
    def delta_size(self) -> int:
        """Points that are new or changed since the IVF index was built."""
        return len(self._delta)

    def upsert(self, points: Sequence[PointKey], ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add vectors, float32 [n, dimension], or replace those of existing points."""
        self._delta.upsert(points, ids, vectors)  # first, so that a search in between finds a point twice, not never
        self._mark_deleted(self._ivf.id_map.rows(points))

    def delete(self, points: Iterable[PointKey]) -> None:
        """Delete points; unknown ones are ignored."""
        deleted = list(points)
        self._mark_deleted(self._ivf.id_map.rows(deleted))
        self._delta.delete(deleted)

    @classmethod
    def refreshed(cls, ivf: IVFIndex, batches: Iterable[Batch]) -> UpdatableIVF:
        """Return an index of exactly `batches`, using those rows of the IVF index that are unchanged."""
        vectors, unchanged = cls(ivf), np.zeros(len(ivf), np.bool_)
        for points, ids, rows in batches:
            ivf_rows = ivf.id_map.rows(points)
            known = np.flatnonzero(ivf_rows >= 0)
            # Qdrant scales vectors to unit length again whenever it opens a folder.
            same = (np.abs(ivf.vectors(ivf_rows[known]) - rows[known]) <= _ROUNDING).all(axis=1)
            stored_ids = zip(known.tolist(), ivf.id_map.node_ids(ivf_rows[known]), strict=True)
            same &= np.array([ids[at] == stored for at, stored in stored_ids], np.bool_)
            unchanged[ivf_rows[known[same]]] = True
            changed = np.setdiff1d(np.arange(len(points)), known[same]).tolist()
            vectors.upsert([points[at] for at in changed], [ids[at] for at in changed], rows[changed])
        vectors._deleted = ~unchanged
        return vectors

    def search(
        self, queries: NDArray[np.float32], k: int, *, allowed: frozenset[PointKey] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return, per query, node ids and cosines of the k nearest vectors, best first.

        Args:
            queries: float32 [n, dimension].
            k: the largest number of hits per query.
            allowed: search only these points, all of which are compared.
        """
        deleted = self._deleted  # read before the delta, since `upsert` writes the delta first
        rows_allowed = None
        if allowed is not None:
            with self._lock:
                rows_allowed = self._row_filters.find(allowed, self._ivf.id_map.rows)
        recent = self._delta.search(queries, k, allowed=allowed)
        hits = []
        for query, delta_hits in zip(queries, recent, strict=True):
            found = dict(
                self._ivf.search(query, k, deleted=deleted if deleted.any() else None, rows_allowed=rows_allowed)
            )
            found.update(delta_hits)
            hits.append(sorted(found.items(), key=lambda hit: (-hit[1], hit[0]))[:k])
        return hits

    def cosines(self, query: NDArray[np.float32], keys: Sequence[Sequence[PointKey]]) -> NDArray[np.float64]:
        """Return the cosine of a query [dimension] and each point, float64 [n]; NaN for a point that is not here.

        keys: the possible point ids of each point.
        """
        cosines = self._delta.cosines(query, keys)
        for number in range(max(map(len, keys), default=0)):
            places = [place for place in np.flatnonzero(np.isnan(cosines)).tolist() if number < len(keys[place])]
            rows = self._ivf.id_map.rows(keys[place][number] for place in places)
            there = (rows >= 0) & ~self._deleted[rows]
            cosines[np.array(places, np.int64)[there]] = exact_cosines(self._ivf.vectors(rows[there]), query)
        return cosines

    def _mark_deleted(self, rows: NDArray[np.int64]) -> None:
        rows = rows[rows >= 0]
        if len(rows):
            with self._lock:
                deleted = self._deleted.copy()
                deleted[rows] = True
                self._deleted = deleted
