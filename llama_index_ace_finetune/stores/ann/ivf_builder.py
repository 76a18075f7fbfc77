"""IVFBuilder: builds an IVF index from batches of vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.stores.ann.binary_quantization import binary_codes, hamming_distances
from llama_index_ace_finetune.stores.ann.id_map import IdMapWriter
from llama_index_ace_finetune.stores.ann.ivf import (
    BOUNDS,
    CENTROIDS,
    CODES,
    DEPTH,
    FORMAT_VERSION,
    MANIFEST,
    MEAN,
    ROWS,
    SCALES,
    SIGNS,
    VECTORS,
    IVFInfo,
)
from llama_index_ace_finetune.stores.ann.kmeans import nearest_centroid, train_centroids
from llama_index_ace_finetune.stores.ann.scalar_quantization import quantise
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.atomic import write_json

RECALL = 0.99
_TEST_QUERIES = 200
_SAMPLE_PER_LIST = 100
_BATCH = 8192


class IVFBuilder:
    """Writes an IVF index of vectors that come in batches into an empty folder.

    Vectors are written to disk at once; in memory are a sample of 100 vectors per list, one batch, and some 50 bytes
    per vector.

        with InvertedFileBuilder(folder, 384) as builder:
            for points, ids, vectors in batches:
                builder.add(points, ids, vectors)
        index = IVFIndex(folder)

    Args:
        folder: an empty folder.
        dimension: of the vectors.
        recall: target recall@30. The number of lists to read and rows to score is tuned on synthetic queries, made of
            pairs of stored vectors, to reach it; for vectors without clusters that is most of them, and a search then
            takes longer than comparing all.
        seed: of the centroids.
    """

    def __init__(self, folder: Path, dimension: int, *, recall: float = RECALL, seed: int = 0) -> None:
        self._folder, self._dimension, self._recall = folder, dimension, recall
        self._rng = np.random.default_rng(seed)
        self._id_map = IdMapWriter(folder)
        self._file = (folder / VECTORS).open("wb")
        self._count = 0

    def add(self, points: Sequence[PointKey], ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Append unit vectors, float32 [n, dimension]; each point must be added only once."""
        self._id_map.add(points, ids)
        self._file.write(np.ascontiguousarray(vectors, np.float32).tobytes())
        self._count += len(points)

    def __enter__(self) -> IVFBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._id_map.close()
        if error is None:
            if not self._count:
                raise StoreError("There are no vectors to index; add some before the builder is closed.")
            self._build()

    def _build(self) -> None:
        """Train the centroids, sort the rows by list, and tune the search parameters."""
        count = self._count
        n_lists = max(1, round(count**0.5))
        sample = self._rows(self._rng.choice(count, min(count, _SAMPLE_PER_LIST * n_lists), replace=False))
        mean, centroids = sample.mean(axis=0), train_centroids(sample, n_lists, rng=self._rng)
        del sample
        lists = np.empty(count, np.int32)
        for span in _spans(count):
            lists[span] = nearest_centroid(self._read(span), centroids)
        rows = np.argsort(lists, kind="stable").astype(np.int32)
        bounds = np.searchsorted(lists[rows], np.arange(n_lists + 1))
        for name, array in ((ROWS, rows), (BOUNDS, bounds), (CENTROIDS, centroids), (MEAN, mean)):
            np.save(self._folder / name, array)
        positions = np.empty(count, np.int32)
        positions[rows] = np.arange(count, dtype=np.int32)
        signs = self._write_rows(positions, mean)
        queries = self._queries()
        nearest = self._nearest(queries, min(DEPTH, count))
        probes, kept, recall = self._tune(
            np.argsort(-(queries @ centroids.T), axis=1, kind="stable"), lists[nearest], positions[nearest],
            bounds, signs, binary_codes(queries, mean),
        )  # fmt: skip
        info = IVFInfo(count=count, dimension=self._dimension, probes=probes, kept=kept, recall=recall)
        write_json(self._folder / MANIFEST, {"format_version": FORMAT_VERSION, **asdict(info)})

    def _read(self, span: slice) -> NDArray[np.float32]:
        """Read some vectors from the file; if memory-mapped, all that was read would count as resident memory."""
        numbers, width = (span.stop - span.start) * self._dimension, 4 * self._dimension
        found = np.fromfile(self._folder / VECTORS, np.float32, numbers, offset=span.start * width)
        return found.reshape(-1, self._dimension)

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of some rows, in one pass over the file."""
        found = np.empty((len(rows), self._dimension), np.float32)
        for span in _spans(self._count):
            here = np.flatnonzero((rows >= span.start) & (rows < span.stop))
            found[here] = self._read(span)[rows[here] - span.start]
        return found

    def _write_rows(self, positions: NDArray[np.int32], mean: NDArray[np.float32]) -> NDArray[np.uint64]:
        """Write the int8 codes and the binary codes of the rows in the order of the lists; return the binary codes."""
        count, words = self._count, len(binary_codes(mean[None], mean))
        codes = np.lib.format.open_memmap(self._folder / CODES, "w+", np.int8, (count, self._dimension))
        signs = np.lib.format.open_memmap(self._folder / SIGNS, "w+", np.uint64, (words, count))
        scales = np.empty(count, np.float32)
        for span in _spans(count):
            vectors = self._read(span)
            codes[positions[span]], scales[positions[span]] = quantise(vectors)
            signs[:, positions[span]] = binary_codes(vectors, mean)
        codes.flush()
        signs.flush()
        np.save(self._folder / SCALES, scales)
        return signs

    def _tune(
        self,
        order: NDArray[np.int64],
        lists: NDArray[np.int32],
        positions: NDArray[np.int32],
        bounds: NDArray[np.int64],
        signs: NDArray[np.uint64],
        queries: NDArray[np.uint64],
    ) -> tuple[int, int, float]:
        """Return the lists to read and the rows to score for the target recall, and the recall; each loses half of it.

        order: lists, nearest first [n, n_lists]; lists, positions: of the nearest vectors [n, k].
        """
        rank = np.argsort(order, axis=1)
        needed = np.take_along_axis(rank, lists.astype(np.int64), axis=1)
        probes = _quantile(needed, (1 + self._recall) / 2) + 1
        rows = np.full(needed.shape, np.iinfo(np.int64).max)  # rows to score until each is found; max: never
        for number, (near, own) in enumerate(zip(order[:, :probes], positions, strict=True)):
            spans = [slice(bounds[at], bounds[at + 1]) for at in near]
            query = queries[:, number : number + 1]
            counts = np.cumsum(np.bincount(hamming_distances(signs, spans, query), minlength=64 * len(query) + 1))
            found = needed[number] < probes
            distances = [hamming_distances(signs, [slice(position, position + 1)], query)[0] for position in own[found]]
            rows[number, found] = counts[np.array(distances, np.int64)]
        kept = _quantile(rows, self._recall)
        return probes, kept, round(float((rows <= kept).mean()), 4)

    def _queries(self) -> NDArray[np.float32]:
        """Return queries near stored vectors, as real ones are: two parts of one vector and one part of another."""
        one, other = self._rng.choice(self._count, (2, min(_TEST_QUERIES, self._count)))
        return unit_rows(2 * self._rows(one) + self._rows(other))

    def _nearest(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the rows of the k nearest vectors of each query, int64 [n, k], by exhaustive search."""
        best = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        for span in _spans(self._count):
            best = np.concatenate([best, queries @ self._read(span).T], axis=1)
            here = np.broadcast_to(np.arange(span.start, span.stop), (len(queries), span.stop - span.start))
            rows = np.concatenate([rows, here], axis=1)
            kept = np.argpartition(-best, min(k, best.shape[1]) - 1, axis=1)[:, :k]
            best, rows = np.take_along_axis(best, kept, axis=1), np.take_along_axis(rows, kept, axis=1)
        return rows


def _quantile(values: NDArray[np.int64], fraction: float) -> int:
    """Return the smallest value that a `fraction` of all values do not exceed."""
    return int(np.sort(values, axis=None)[max(math.ceil(fraction * values.size) - 1, 0)])


def _spans(count: int) -> list[slice]:
    return [slice(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]
