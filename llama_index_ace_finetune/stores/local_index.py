"""LocalVectorIndex: an in-process index over one named vector of an embedded collection."""

from __future__ import annotations

import logging
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_client.local.qdrant_local import QdrantLocal

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.ann.flat import FlatIndex
from llama_index_ace_finetune.stores.ann.ivf import IVFIndex
from llama_index_ace_finetune.stores.ann.ivf_builder import IVFBuilder
from llama_index_ace_finetune.stores.ann.updatable_ivf import Batch, UpdatableIVF
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, PointKey, key_of, node_id_of, point_keys
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant
from llama_index_ace_finetune.stores.qdrant.points import read_points
from llama_index_ace_finetune.stores.qdrant.write_log import subscribe
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.new_folder import new_folder

EXACT_UP_TO: Final = 200_000
_BATCH = 4096
logger = logging.getLogger(__name__)


class LocalVectorIndex:
    """Searches the vectors of a Qdrant collection in this process.

    Qdrant stays the source of truth: all vectors are read from it at the first search, and those of points that were
    written since, through the same client, before each later search. Embedded Qdrant checks every payload at every
    query; with 100,000 points that takes ten times as long as comparing all vectors.

    Up to `exact_up_to` points, all vectors are compared (`FlatIndex`). Above that, an IVF index is built, beside the
    collection's files or in a temporary folder, and rebuilt once `exact_up_to` points were written since.
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        name: str,
        *,
        dimension: int,
        location: str,
        exact_up_to: int = EXACT_UP_TO,
    ) -> None:
        self._client, self._collection, self._name, self._location = client, collection, name, location
        self._dimension, self._exact_up_to = dimension, exact_up_to
        self._index: FlatIndex | UpdatableIVF = FlatIndex(dimension)
        self._temporary: Path | None = None
        self._log = subscribe(client)
        self._complete = False
        self._reading = fork_safe_lock()

    def search(
        self, queries: NDArray[np.float32], k: int, *, allowed: frozenset[PointKey] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return, per row of `queries` [n, dimension], node ids and cosines of the k nearest; ties by node id."""
        self._sync()
        return self._index.search(queries, k, allowed=allowed)

    def cosines(self, query: NDArray[np.float32], node_ids: Sequence[str]) -> NDArray[np.float64]:
        """Return the cosine of a query [dimension] and each node, float64 [n]; NaN for a node without a vector."""
        self._sync()
        return self._index.cosines(query, [point_keys(node_id) for node_id in node_ids])

    def _sync(self) -> None:
        with self._reading:
            changed = self._log.drain() if self._complete else None
            if changed is not None and not changed:
                return
            self._complete = False  # also in a child that is forked meanwhile
            if changed is None:
                self._log.drain()
                self._index = self._read_all()
            else:
                self._index.delete(changed)
                for points, ids, rows in self._batches(list(changed)):
                    self._index.upsert(points, ids, rows)
                if self._is_outgrown():
                    self._index = self._read_all()
            self._complete = True

    def _is_outgrown(self) -> bool:
        index = self._index
        return (index.delta_size if isinstance(index, UpdatableIVF) else len(index)) > self._exact_up_to

    def _read_all(self) -> FlatIndex | UpdatableIVF:
        if call_qdrant(self._location, self._client.count, self._collection, exact=True).count <= self._exact_up_to:
            flat = FlatIndex(self._dimension)
            for points, ids, rows in self._batches(None):
                flat.upsert(points, ids, rows)
            return flat
        folder = self._folder()
        ivf = self._index.ivf if isinstance(self._index, UpdatableIVF) else self._open_existing(folder)
        if ivf is not None:
            updatable = UpdatableIVF.refreshed(ivf, self._batches(None))
            if updatable.delta_size <= self._exact_up_to:
                return updatable
        batches = self._batches(None)
        first = next(batches, None)
        if first is None:  # all points lack this model's vector
            return FlatIndex(self._dimension)
        logger.info("building an IVF index of the %s vectors in %s", self._name, self._location)
        with (
            new_folder(folder, kind="vectors", derived=True, wait=True) as fresh,
            IVFBuilder(fresh, self._dimension) as builder,
        ):
            for points, ids, rows in chain([first], batches):
                builder.add(points, ids, rows)
        return UpdatableIVF(IVFIndex(folder))

    def _open_existing(self, folder: Path) -> IVFIndex | None:
        """Return the IVF index that an earlier process built, if it is readable and of the same dimension."""
        if not folder.is_dir():
            return None
        try:
            ivf = IVFIndex(folder)
        except StoreError as error:
            logger.warning("the IVF index is rebuilt: %s", error)
            return None
        return ivf if ivf.info.dimension == self._dimension else None

    def _folder(self) -> Path:
        """Return the folder of the IVF index: inside the collection's folder, so that it is deleted with it."""
        local = getattr(self._client, "_client", None)
        if isinstance(local, QdrantLocal) and local.persistent and not getattr(local, "read_only", False):
            return Path(local.location) / "collection" / self._collection / f"vectors-{self._name}"
        if self._temporary is None:
            temporary = tempfile.TemporaryDirectory(prefix="ace-finetune-")
            self._temporary = Path(temporary.name)
            weakref.finalize(self, temporary.cleanup)
        return self._temporary / "vectors"

    def _batches(self, ids: list[PointKey] | None) -> Iterator[Batch]:
        points = read_points(
            self._client, self._collection, self._location, ids=ids,
            with_payload=[NODE_ID_FIELD], with_vectors=[self._name],
        )  # fmt: skip
        while batch := list(islice(points, _BATCH)):
            # Points of other writers may lack this model's vector.
            with_vector = [point for point in batch if (point.vector or {}).get(self._name) is not None]
            if not with_vector:
                continue
            rows = np.array([point.vector[self._name] for point in with_vector], np.float32)
            yield [key_of(point.id) for point in with_vector], [node_id_of(point) for point in with_vector], rows
