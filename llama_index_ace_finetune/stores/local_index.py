"""An embedded collection's vectors of one model, kept in this process beside Qdrant."""

from __future__ import annotations

import logging
import tempfile
import weakref
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_client.local.qdrant_local import QdrantLocal

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.ann.flat import NearestVectors
from llama_index_ace_finetune.stores.ann.ivf import InvertedFile
from llama_index_ace_finetune.stores.ann.ivf_builder import InvertedFileBuilder
from llama_index_ace_finetune.stores.ann.updatable_ivf import Batch, LargeVectors
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, PointKey, key_of, node_id_of
from llama_index_ace_finetune.stores.qdrant.connection import told
from llama_index_ace_finetune.stores.qdrant.points import read_points
from llama_index_ace_finetune.stores.qdrant.write_log import watch
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.new_folder import new_folder

EXACT_UP_TO: Final = 200_000
_AT_ONCE = 4096
logger = logging.getLogger(__name__)


class VectorMirror:
    """Searches what Qdrant holds in this process.

    Qdrant stays the store of record: vectors are read from it at the first search, and those of points that were
    written since, by whichever holder of the same client, before the next. The embedded Qdrant checks every payload
    at every query; at 100,000 points that takes ten times as long as comparing all vectors.

    Up to `exact_up_to` points all vectors are compared (`NearestVectors`); above, an inverted file is made, beside the
    collection's own files or in a temporary folder, and again whenever as many points were written since.
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        name: str,
        *,
        dimension: int,
        where: str,
        exact_up_to: int = EXACT_UP_TO,
    ) -> None:
        self._client, self._collection, self._name, self._where = client, collection, name, where
        self._dimension, self._exact_up_to = dimension, exact_up_to
        self._vectors: NearestVectors | LargeVectors = NearestVectors(dimension)
        self._temporary: Path | None = None
        self._log = watch(client)
        self._whole = False
        self._reading = fork_safe_lock()

    def search(
        self, queries: NDArray[np.float32], k: int, *, allowed: frozenset[PointKey] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return, per row of `queries` [n, dimension], node ids and cosines of the k nearest; ties go by node id."""
        self._catch_up()
        return self._vectors.search(queries, k, allowed=allowed)

    def _catch_up(self) -> None:
        with self._reading:
            touched = self._log.take() if self._whole else None
            if touched is not None and not touched:
                return
            self._whole = False  # also in a child that is forked meanwhile
            if touched is None:
                self._log.take()
                self._vectors = self._read_all()
            else:
                self._vectors.drop(touched)
                for points, ids, rows in self._batches(list(touched)):
                    self._vectors.put(points, ids, rows)
                if self._outgrown():
                    self._vectors = self._read_all()
            self._whole = True

    def _outgrown(self) -> bool:
        held = self._vectors
        return (held.written_since if isinstance(held, LargeVectors) else len(held)) > self._exact_up_to

    def _read_all(self) -> NearestVectors | LargeVectors:
        if told(self._where, self._client.count, self._collection, exact=True).count <= self._exact_up_to:
            nearest = NearestVectors(self._dimension)
            for points, ids, rows in self._batches(None):
                nearest.put(points, ids, rows)
            return nearest
        folder = self._folder()
        file = self._vectors.file if isinstance(self._vectors, LargeVectors) else self._opened(folder)
        if file is not None:
            large = LargeVectors.in_step(file, self._batches(None))
            if large.written_since <= self._exact_up_to:
                return large
        batches = self._batches(None)
        first = next(batches, None)
        if first is None:  # all points lack this model's vector
            return NearestVectors(self._dimension)
        logger.info("the %s vectors of %s are divided into lists", self._name, self._where)
        with (
            new_folder(folder, kind="vectors", derived=True, wait=True) as fresh,
            InvertedFileBuilder(fresh, self._dimension) as builder,
        ):
            for points, ids, rows in chain([first], batches):
                builder.add(points, ids, rows)
        return LargeVectors(InvertedFile(folder))

    def _opened(self, folder: Path) -> InvertedFile | None:
        """Return the inverted file that an earlier process left, if it is one of these vectors."""
        if not folder.is_dir():
            return None
        try:
            file = InvertedFile(folder)
        except StoreError as error:
            logger.warning("they are made again: %s", error)
            return None
        return file if file.info.dimension == self._dimension else None

    def _folder(self) -> Path:
        """Return where the inverted file lies: with the collection, so that it is deleted with it."""
        local = getattr(self._client, "_client", None)
        if isinstance(local, QdrantLocal) and local.persistent and not getattr(local, "read_only", False):
            return Path(local.location) / "collection" / self._collection / f"vectors-{self._name}"
        if self._temporary is None:
            made = tempfile.TemporaryDirectory(prefix="ace-finetune-")
            self._temporary = Path(made.name)
            weakref.finalize(self, made.cleanup)
        return self._temporary / "vectors"

    def _batches(self, ids: list[PointKey] | None) -> Iterator[Batch]:
        points = read_points(
            self._client, self._collection, self._where, ids=ids,
            with_payload=[NODE_ID_FIELD], with_vectors=[self._name],
        )  # fmt: skip
        while batch := list(islice(points, _AT_ONCE)):
            # A point that another writer made may lack this model's vector.
            held = [point for point in batch if (point.vector or {}).get(self._name) is not None]
            if not held:
                continue
            rows = np.array([point.vector[self._name] for point in held], np.float32)
            yield [key_of(point.id) for point in held], [node_id_of(point) for point in held], rows
