"""How many memories of a collection hold each term, over all of its shards."""

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
from llama_index_ace_finetune.stores.qdrant.write_log import watch


class DocumentFrequencies:
    """Document frequencies, counted from the sparse vectors that a collection holds.

    Qdrant's own IDF modifier counts per shard, so that the same memory scores differently on another shard. Here all
    vectors are read at the first search; later only those of points that were written through the same client. What
    another process writes is counted after `reread`. Per memory it keeps the numbers of its terms, 4 bytes each.
    """

    def __init__(self, client: QdrantClient, collection: str, where: str, *, vector: str) -> None:
        self._client, self._collection, self._where, self._vector = client, collection, where, vector
        self._log = watch(client)
        self._lock = threading.Lock()
        self._terms: dict[PointKey, bytes] = {}
        self._counts: Counter[int] = Counter()

    def reread(self) -> None:
        """Count everything again before the next search."""
        self._log.note(None)

    def of(self, terms: Sequence[int]) -> tuple[NDArray[np.float64], int]:
        """Return how many memories hold each term, float64 [len(terms)], and how many there are.

        Raises:
            StoreError: if the collection cannot be read.
        """
        with self._lock:
            self._catch_up()
            return np.array([self._counts[term] for term in terms], np.float64), len(self._terms)

    def _catch_up(self) -> None:
        touched = self._log.take()
        if touched is not None and not touched:
            return
        try:
            if touched is None:
                self._terms, self._counts = {}, Counter()
            points = read_points(
                self._client, self._collection, self._where, ids=None if touched is None else list(touched),
                with_payload=False, with_vectors=[self._vector],
            )  # fmt: skip
            present = {key_of(point.id): self._indices(point) for point in points}
            for point in touched or ():
                gone = self._terms.pop(point, b"")
                self._counts.subtract(np.frombuffer(gone, np.uint32).tolist())
            for point, indices in present.items():
                self._terms[point] = indices.tobytes()
                self._counts.update(indices.tolist())
        except BaseException:
            self._log.note(None)  # what was taken was not read
            raise

    def _indices(self, point: Any) -> NDArray[np.uint32]:
        vector = (point.vector or {}).get(self._vector)
        return np.array(vector.indices if vector is not None else [], np.uint32)
