"""FurtherVectorSearch: further vectors of a store's memories, merged into the hits of the dense leg."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import numpy as np
from llama_index.core.schema import MetadataMode
from numpy.typing import NDArray
from qdrant_client import models

from llama_index_ace_finetune.ranking.dense import DIGITS
from llama_index_ace_finetune.ranking.further_vectors import FurtherVectors, with_offset
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.fork import fork_safe_lock

_OVERFETCH: Final = 4
_NO_GROUP: Final = -1


class FurtherVectorSearch:
    """Compares queries with further vectors of the memories that are in a store now, such as known queries.

    It works with any store, since the vectors stay in this process. They belong to texts: a memory that is deleted, or
    written with another text, loses them before the next search, and memories with equal texts share them. Writes by
    other processes are found after `refresh`.

    Args:
        store: of the memories.
        key: of a text; vectors of equal keys belong to the same memories.
    """

    def __init__(self, store: MemoryStore, key: Callable[[str], str]) -> None:
        self._store, self._key = store, key
        self._log = store.subscribe()
        self._lock = fork_safe_lock()
        self._clear()

    def merge(
        self,
        hits: Sequence[tuple[str, float]],
        vector: NDArray[np.float32],
        k: int,
        *,
        offset: float = 0.0,
        query_filter: models.Filter | None = None,
    ) -> list[tuple[str, float]]:
        """Return the k best memories by the given scores or the cosine of a further vector less `offset`.

        Ties are ordered by node id.

        Args:
            hits: the k best memories without these vectors, with exact scores.
            vector: of the query [d].
            k: number of memories.
            offset: what is taken off the cosine with a further vector.
            query_filter: of the hits.
        """
        self.sync()
        best = dict(hits)
        # A memory that is not among k hits has a lower score than each of them, so only its further vectors can count.
        least = min(best.values()) if len(best) >= k else -np.inf
        depth = k
        while True:
            nearest, complete = self._nearest(vector, depth, offset, least, query_filter)
            if complete or len(nearest) >= k:
                break
            depth *= _OVERFETCH
        for node_id, score in nearest:
            best[node_id] = max(score, best.get(node_id, -np.inf))
        return sorted(best.items(), key=lambda hit: (-hit[1], hit[0]))[:k]

    def scores(
        self, vector: NDArray[np.float32], node_ids: Sequence[str], cosines: NDArray[np.float64], *, offset: float = 0.0
    ) -> NDArray[np.float64]:
        """Return the scores of some memories, float64 [n], from those of a query [d] without further vectors."""
        self.sync()
        with self._lock:
            groups = np.array([self._group_of_id.get(node_id, _NO_GROUP) for node_id in node_ids], np.int64)
            parts = list(self._parts)
        for part in parts:
            cosines = with_offset(cosines, part.scores(vector, groups), offset)
        return cosines

    def refresh(self) -> None:
        """Compare the memories with the store before the next search."""
        self._log.record(None)

    def _clear(self) -> None:
        """Forget all vectors and memories."""
        self._parts: list[FurtherVectors] = []  # of consecutive groups
        self._keys: list[str] = []  # of the text of each group
        self._group_of_text: dict[str, int] = {}  # by key
        self._ids: list[dict[PointKey, str]] = []  # of the memories of each group
        self._group_of_point: dict[PointKey, int] = {}
        self._group_of_id: dict[str, int] = {}
        self._present = np.zeros(0, np.bool_)

    def _add(self, keys: Sequence[str], counts: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add the vectors of texts without any, text after text: `counts` [n] of each, all above 0."""
        first = len(self._ids)
        self._group_of_text.update((key, first + place) for place, key in enumerate(keys))
        self._keys += keys
        self._ids += [{} for _ in keys]
        groups = first + np.repeat(np.arange(len(keys)), counts)
        if len(self._parts) == 2:  # one of those at the beginning, which may be mapped, and one of those added since
            last = self._parts.pop()
            vectors, groups = np.concatenate([last.vectors, vectors]), np.concatenate([last.memories, groups])
        self._parts.append(FurtherVectors.of(vectors, groups))

    def _add_missing(self, texts: dict[str, str]) -> None:
        """Add the vectors of texts of the store without any, by key; here there are none."""

    def _nearest(
        self,
        vector: NDArray[np.float32],
        depth: int,
        offset: float,
        least: float,
        query_filter: models.Filter | None,
    ) -> tuple[list[tuple[str, float]], bool]:
        """Return memories and scores of at least `least`, and whether there are no more of them."""
        allowed = None
        if query_filter is not None and self._store.embedded:
            allowed = self._store.matching_ids(query_filter)
        with self._lock:
            among = self._present if allowed is None else self._among(allowed)
            parts, ids = list(self._parts), self._ids
        found: list[tuple[str, float]] = []
        complete = True
        for part in parts:
            ((groups, cosines),) = part.best(vector[None], depth, among=among[part.distinct])
            scores = np.round(cosines - offset, DIGITS)
            high = scores >= least
            complete &= len(groups) == int(among[part.distinct].sum()) or not high.all()
            with self._lock:
                found += [
                    (node_id, score)
                    for group, score in zip(groups[high].tolist(), scores[high].tolist(), strict=True)
                    for point, node_id in ids[group].items()
                    if allowed is None or point in allowed
                ]
        if query_filter is not None and allowed is None:
            # On a server, millions of points may match, so only the hits are checked.
            matching = self._store.filter_ids([node_id for node_id, _ in found], query_filter)
            found = [hit for hit in found if hit[0] in matching]
        return found, complete

    def _among(self, points: Collection[PointKey]) -> NDArray[np.bool_]:
        """Return which texts are those of some points, bool [texts]."""
        group_of = self._group_of_point
        few, many = (points, group_of) if len(points) < len(group_of) else (group_of, points)
        among = np.zeros(len(self._ids), np.bool_)
        among[[group_of[point] for point in few if point in many]] = True
        return among

    def sync(self) -> None:
        """Read what was written to the store since the last call; every search does it."""
        with self._lock:
            changed = self._log.drain()
            if changed is not None and not changed:
                return
            try:
                self._update(changed)
            except BaseException:
                self._log.record(None)  # the drained points were not read
                raise

    def _update(self, changed: set[PointKey] | None) -> None:
        for point in list(self._group_of_point) if changed is None else changed:
            group = self._group_of_point.pop(point, None)
            if group is not None:
                self._group_of_id.pop(self._ids[group].pop(point), None)
        memories: list[tuple[PointKey, str, str]] = []
        texts: dict[str, str] = {}
        for point, node_id, node in self._store.points_as_nodes(None if changed is None else list(changed)):
            text = node.get_content(MetadataMode.EMBED)
            key = self._key(text)
            memories.append((point, node_id, key))
            if key not in self._group_of_text and self._needs_vectors(key):
                texts[key] = text
        self._add_missing(texts)
        for point, node_id, key in memories:
            group = self._group_of_text.get(key)
            if group is not None:
                self._ids[group][point] = node_id
                self._group_of_point[point] = self._group_of_id[node_id] = group
        self._present = self._among(self._group_of_point)

    def _needs_vectors(self, key: str) -> bool:
        """Whether the vectors of a text are to be added; here of none."""
        return False
