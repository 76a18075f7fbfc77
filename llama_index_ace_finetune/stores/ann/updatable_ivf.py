"""LargeVectors: an inverted file, and what was written since it was made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.stores.ann.flat import AllowedRows, NearestVectors
from llama_index_ace_finetune.stores.ann.ivf import InvertedFile
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.fork import fork_safe_lock

Batch = tuple[Sequence[PointKey], Sequence[str], NDArray[np.float32]]
_ROUNDING = 2.5e-7


class LargeVectors:
    """`NearestVectors` for more vectors than are compared in a moment.

    The file stays as it was made. Points that were replaced or deleted are left out of its answers; what was written
    since is compared exactly, so it is found at once. Searching from several threads is safe, also while another puts
    or drops vectors.
    """

    def __init__(self, file: InvertedFile) -> None:
        self._file = file
        self._since = NearestVectors(file.info.dimension)
        self._gone = np.zeros(len(file), np.bool_)
        self._lock = fork_safe_lock()
        self._allowed = AllowedRows()

    def __len__(self) -> int:
        return int(len(self._file) - self._gone.sum()) + len(self._since)

    @property
    def file(self) -> InvertedFile:
        """What was there when it was made."""
        return self._file

    @property
    def written_since(self) -> int:
        """Points that the file does not hold as they are now."""
        return len(self._since)

    def put(self, points: Sequence[PointKey], ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add vectors, float32 [n, dimension], or replace those of points that are there."""
        self._since.put(points, ids, vectors)  # first, so that a search in between finds a point twice, not never
        self._leave_out(self._file.names.rows(points))

    def drop(self, points: Iterable[PointKey]) -> None:
        """Take points out; unknown ones are left aside."""
        gone = list(points)
        self._leave_out(self._file.names.rows(gone))
        self._since.drop(gone)

    @classmethod
    def in_step(cls, file: InvertedFile, batches: Iterable[Batch]) -> LargeVectors:
        """Return what `batches` hold, using of the file what is still so."""
        vectors, kept = cls(file), np.zeros(len(file), np.bool_)
        for points, ids, rows in batches:
            places = file.names.rows(points)
            held = np.flatnonzero(places >= 0)
            # Qdrant scales vectors to unit length again whenever it opens a folder.
            same = (np.abs(file.vectors(places[held]) - rows[held]) <= _ROUNDING).all(axis=1)
            names = zip(held.tolist(), file.names.node_ids(places[held]), strict=True)
            same &= np.array([ids[at] == name for at, name in names], np.bool_)
            kept[places[held[same]]] = True
            changed = np.setdiff1d(np.arange(len(points)), held[same]).tolist()
            vectors.put([points[at] for at in changed], [ids[at] for at in changed], rows[changed])
        vectors._gone = ~kept
        return vectors

    def search(
        self, queries: NDArray[np.float32], k: int, *, allowed: frozenset[PointKey] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return, per query, ids and cosines of the k nearest, best first.

        Args:
            queries: float32 [n, dimension].
            k: at most so many per query.
            allowed: only these points; all of them are compared.
        """
        gone = self._gone  # before what was written since, as `put` does it the other way round
        only = None
        if allowed is not None:
            with self._lock:
                only = self._allowed.found(allowed, self._file.names.rows)
        recent = self._since.search(queries, k, allowed=allowed)
        hits = []
        for query, since in zip(queries, recent, strict=True):
            found = dict(self._file.search(query, k, gone=gone if gone.any() else None, only=only))
            found.update(since)
            hits.append(sorted(found.items(), key=lambda hit: (-hit[1], hit[0]))[:k])
        return hits

    def _leave_out(self, rows: NDArray[np.int64]) -> None:
        rows = rows[rows >= 0]
        if len(rows):
            with self._lock:
                gone = self._gone.copy()
                gone[rows] = True
                self._gone = gone
