"""From batches of vectors to an inverted file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.atomic import write_json
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.centroids import nearest_centroid, train_centroids
from llama_index_ace_finetune.stores.int8_rows import quantise
from llama_index_ace_finetune.stores.inverted_file import (
    BOUNDS,
    CENTROIDS,
    CODES,
    FORMAT_VERSION,
    MANIFEST,
    ROWS,
    SCALES,
    VECTORS,
    InvertedFileInfo,
)
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.stores.point_names import PointNamesWriter

RECALL = 0.99
_DEPTH = 30
_ASKED = 200
_PER_LIST = 64
_AT_ONCE = 8192


class InvertedFileBuilder:
    """Writes an inverted file into an empty folder, of vectors that come in batches.

    They go to disk as they come; in memory are a sample of 64 vectors a list, one batch, and 40 bytes a vector.

        with InvertedFileBuilder(folder, 384) as builder:
            for points, ids, vectors in batches:
                builder.add(points, ids, vectors)
        index = InvertedFile(folder)

    Args:
        folder: an empty one.
        dimension: of the vectors.
        recall: share of the 30 nearest vectors that a search has to find on average. Queries for measuring it are made
            up from pairs of stored vectors, and so many lists are read that they find it; vectors without structure
            need most of the lists for it, and a search then takes longer than comparing all.
        seed: of the centroids.
    """

    def __init__(self, folder: Path, dimension: int, *, recall: float = RECALL, seed: int = 0) -> None:
        self._folder, self._dimension, self._recall = folder, dimension, recall
        self._rng = np.random.default_rng(seed)
        self._names = PointNamesWriter(folder)
        self._file = (folder / VECTORS).open("wb")
        self._count = 0

    def add(self, points: Sequence[PointKey], ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Append unit vectors, float32 [n, dimension]; a point must come once."""
        self._names.add(points, ids)
        self._file.write(np.ascontiguousarray(vectors, np.float32).tobytes())
        self._count += len(points)

    def __enter__(self) -> InvertedFileBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._names.close()
        if error is None:
            if not self._count:
                raise StoreError("There are no vectors to divide into lists; add some before the builder is closed.")
            self._divide()

    def _divide(self) -> None:
        """Train the centroids, sort the rows by list, and measure how many lists a search has to read."""
        count = self._count
        vectors = np.memmap(self._folder / VECTORS, np.float32, "r", shape=(count, self._dimension))
        n_lists = max(1, min(count, round(2 * count**0.5)))
        sample = np.sort(self._rng.choice(count, min(count, _PER_LIST * n_lists), replace=False))
        centroids = train_centroids(vectors[sample], n_lists, rng=self._rng)
        lists = np.empty(count, np.int32)
        for span in _spans(count):
            lists[span] = nearest_centroid(vectors[span], centroids)
        rows = np.argsort(lists, kind="stable").astype(np.int32)
        places = np.empty(count, np.int32)
        places[rows] = np.arange(count, dtype=np.int32)
        np.save(self._folder / ROWS, rows)
        np.save(self._folder / BOUNDS, np.searchsorted(lists[rows], np.arange(n_lists + 1)))
        np.save(self._folder / CENTROIDS, centroids)
        self._write_codes(vectors, places)
        probes, recall = self._probes(vectors, lists, centroids)
        info = InvertedFileInfo(count=count, dimension=self._dimension, probes=probes, recall=recall)
        write_json(self._folder / MANIFEST, {"format_version": FORMAT_VERSION, **asdict(info)})

    def _write_codes(self, vectors: NDArray[np.float32], places: NDArray[np.int32]) -> None:
        codes = np.lib.format.open_memmap(self._folder / CODES, "w+", np.int8, vectors.shape)
        scales = np.empty(len(vectors), np.float32)
        for span in _spans(len(vectors)):
            codes[places[span]], scales[places[span]] = quantise(vectors[span])
        codes.flush()
        np.save(self._folder / SCALES, scales)

    def _probes(
        self, vectors: NDArray[np.float32], lists: NDArray[np.int32], centroids: NDArray[np.float32]
    ) -> tuple[int, float]:
        """Return how many lists hold the wanted share of the nearest vectors, and that share."""
        queries = self._queries(vectors)
        nearest = _nearest_rows(vectors, queries, min(_DEPTH, len(vectors)))
        order = np.argsort(-(queries @ centroids.T), axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(order.shape[1])[None, :], axis=1)
        needed = np.sort(np.take_along_axis(rank, lists[nearest].astype(np.int64), axis=1), axis=None)
        probes = int(needed[max(int(np.ceil(self._recall * len(needed))) - 1, 0)]) + 1
        return probes, round(float((needed < probes).mean()), 4)

    def _queries(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return queries that lie beside the stored vectors, as real ones do: two parts of one and one of another."""
        one, other = self._rng.choice(len(vectors), (2, min(_ASKED, len(vectors))))
        queries = 2 * vectors[one] + vectors[other]
        return np.asarray(queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12), np.float32)


def _spans(count: int) -> list[slice]:
    return [slice(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE)]


def _nearest_rows(vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the rows of the k nearest vectors of each query, int64 [n, k], by comparing all."""
    best = np.full((len(queries), 0), -np.inf, np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for span in _spans(len(vectors)):
        best = np.concatenate([best, queries @ vectors[span].T], axis=1)
        here = np.broadcast_to(np.arange(span.start, span.stop), (len(queries), span.stop - span.start))
        rows = np.concatenate([rows, here], axis=1)
        kept = np.argpartition(-best, min(k, best.shape[1]) - 1, axis=1)[:, :k]
        best, rows = np.take_along_axis(best, kept, axis=1), np.take_along_axis(rows, kept, axis=1)
    return rows
