"""KnownQuerySearch: known queries as further vectors of a store's memories, merged into the hits of the dense leg."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from llama_index.core.schema import MetadataMode
from numpy.typing import NDArray
from qdrant_client import models

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.ranking.dense import DIGITS
from llama_index_ace_finetune.ranking.known_queries import KnownQueryVectors, with_offset
from llama_index_ace_finetune.stores.known_queries import StoredKnownQueries
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.fork import fork_safe_lock

_OVERFETCH: Final = 4
_NO_GROUP: Final = -1


class KnownQuerySearch:
    """Compares queries with the known queries of the memories that are in a store now.

    It works with any store, since the known queries stay in this process. They belong to texts: a memory that is
    deleted, or written with another text, loses them before the next search. Writes by other processes are found after
    `refresh`.

    Args:
        store: of the memories.
        stored: vectors by the model of the dense leg.
    """

    def __init__(self, store: MemoryStore, stored: StoredKnownQueries) -> None:
        self._store, self.fingerprint = store, stored.fingerprint
        texts = sorted(set(stored.memories))
        self._group_of_text = {text: group for group, text in enumerate(texts)}
        groups = np.array([self._group_of_text[text] for text in stored.memories], np.int64)
        self._vectors = KnownQueryVectors.of(stored.vectors, groups)
        self._log = store.subscribe()
        self._lock = fork_safe_lock()
        self._ids: list[dict[PointKey, str]] = [{} for _ in texts]  # of the memories with each text
        self._group_of_point: dict[PointKey, int] = {}
        self._group_of_id: dict[str, int] = {}
        self._present = np.zeros(len(texts), np.bool_)

    def merge(
        self,
        hits: Sequence[tuple[str, float]],
        vector: NDArray[np.float32],
        k: int,
        *,
        offset: float,
        query_filter: models.Filter | None = None,
    ) -> list[tuple[str, float]]:
        """Return the k best memories by the cosine of their text or of a known query less `offset`, ties by node id.

        Args:
            hits: the k nearest memories by their text, with exact cosines.
            vector: of the query [d].
            k: number of memories.
            offset: what is taken off the cosine with a known query.
            query_filter: of the hits.
        """
        self._sync()
        best = dict(hits)
        # A memory that is not among k hits has a lower cosine than each of them, so only its known queries can count.
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
        self, vector: NDArray[np.float32], node_ids: Sequence[str], cosines: NDArray[np.float64], *, offset: float
    ) -> NDArray[np.float64]:
        """Return the scores of some memories, float64 [n], from the cosines of a query [d] with their texts."""
        self._sync()
        with self._lock:
            groups = np.array([self._group_of_id.get(node_id, _NO_GROUP) for node_id in node_ids], np.int64)
        return with_offset(cosines, self._vectors.scores(vector, groups), offset)

    def refresh(self) -> None:
        """Compare the memories with the store before the next search."""
        self._log.record(None)

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
        ((groups, cosines),) = self._vectors.best(vector[None], depth, among=among)
        scores = np.round(cosines - offset, DIGITS)
        high = scores >= least
        complete = len(groups) == int(among.sum()) or not high.all()
        with self._lock:
            found = [
                (node_id, score)
                for group, score in zip(groups[high].tolist(), scores[high].tolist(), strict=True)
                for point, node_id in self._ids[group].items()
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

    def _sync(self) -> None:
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
        for point, node_id, node in self._store.points_as_nodes(None if changed is None else list(changed)):
            group = self._group_of_text.get(text_hash(node.get_content(MetadataMode.EMBED)))
            if group is not None:
                self._ids[group][point] = node_id
                self._group_of_point[point] = self._group_of_id[node_id] = group
        self._present = self._among(self._group_of_point)
