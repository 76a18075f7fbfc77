"""An embedded collection's vectors of one model, kept in this process beside Qdrant."""

from __future__ import annotations

import threading
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient

from llama_index_ace_finetune.stores.nearest import NearestVectors
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, PointKey, key_of, node_id_of
from llama_index_ace_finetune.stores.points import read_points
from llama_index_ace_finetune.stores.writes import watch

_AT_ONCE = 4096


class VectorMirror:
    """Searches what Qdrant holds, as a matrix product.

    Qdrant stays the store of record: vectors are read from it at the first search, and those of points that were
    written since, by whichever holder of the same client, before the next. The embedded Qdrant checks every payload
    at every query; at 100,000 points that takes ten times as long as the product.
    """

    def __init__(self, client: QdrantClient, collection: str, name: str, *, dimension: int, where: str) -> None:
        self._client, self._collection, self._name, self._where = client, collection, name, where
        self._nearest = NearestVectors(dimension)
        self._log = watch(client)
        self._reading = threading.Lock()

    def search(
        self, queries: NDArray[np.float32], k: int, *, allowed: frozenset[PointKey] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return, per row of `queries` [n, dimension], node ids and cosines of the k nearest; ties go by node id."""
        self._catch_up()
        return self._nearest.search(queries, k, allowed=allowed)

    def _catch_up(self) -> None:
        with self._reading:
            touched = self._log.take()
            if touched is not None and not touched:
                return
            try:
                if touched is None:
                    self._nearest.clear()
                    self._read(None)
                else:
                    self._nearest.drop(touched)
                    self._read(list(touched))
            except BaseException:
                self._log.note(None)  # what was taken was not read
                raise

    def _read(self, ids: list[PointKey] | None) -> None:
        points = read_points(
            self._client, self._collection, self._where, ids=ids,
            with_payload=[NODE_ID_FIELD], with_vectors=[self._name],
        )  # fmt: skip
        while batch := list(islice(points, _AT_ONCE)):
            # A point that another writer made may lack this model's vector.
            held = [point for point in batch if (point.vector or {}).get(self._name) is not None]
            self._nearest.put(
                [key_of(point.id) for point in held],
                [node_id_of(point) for point in held],
                np.array([point.vector[self._name] for point in held], np.float32).reshape(len(held), -1),
            )
