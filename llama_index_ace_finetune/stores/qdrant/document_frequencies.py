"""DocumentFrequencies: the number of memories with each term, over all shards of a collection."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient

from llama_index_ace_finetune.stores.point_ids import PointKey, key_of
from llama_index_ace_finetune.stores.qdrant.points import read_points
from llama_index_ace_finetune.stores.qdrant.write_log import subscribe


class DocumentFrequencies:
    """Document frequencies, counted from the sparse vectors of a collection.

    Qdrant's IDF modifier counts per shard, so the same memory would score differently on another shard. All vectors
    are read at the first search; later only those of points that were written through the same client. Writes by other
    processes are counted after `refresh`. Memory: the term ids of every memory, 4 bytes each.
    """

    def __init__(self, client: QdrantClient, collection: str, location: str, *, vector: str) -> None:
        self._client, self._collection, self._location, self._vector = client, collection, location, vector
        self._log = subscribe(client)
        self._lock = threading.Lock()
        self._terms: dict[PointKey, bytes] = {}
        self._counts: Counter[int] = Counter()

    def refresh(self) -> None:
        """Count everything again before the next search."""
        self._log.record(None)

    def of(self, terms: Sequence[int]) -> tuple[NDArray[np.float64], int]:
        """Return the number of memories with each term, float64 [len(terms)], and the number of memories.

        Raises:
            StoreError: if the collection cannot be read.
        """
        with self._lock:
            self._sync()
            return np.array([self._counts[term] for term in terms], np.float64), len(self._terms)

    def _sync(self) -> None:
        changed = self._log.drain()
        if changed is not None and not changed:
            return
        try:
            if changed is None:
                self._terms, self._counts = {}, Counter()
            points = read_points(
                self._client, self._collection, self._location, ids=None if changed is None else list(changed),
                with_payload=False, with_vectors=[self._vector],
            )  # fmt: skip
            present = {key_of(point.id): self._indices(point) for point in points}
            for point in changed or ():
                removed = self._terms.pop(point, b"")
                self._counts.subtract(np.frombuffer(removed, np.uint32).tolist())
            for point, indices in present.items():
                self._terms[point] = indices.tobytes()
                self._counts.update(indices.tolist())
        except BaseException:
            self._log.record(None)  # the drained points were not read
            raise

    def _indices(self, point: Any) -> NDArray[np.uint32]:
        vector = (point.vector or {}).get(self._vector)
        return np.array(vector.indices if vector is not None else [], np.uint32)
