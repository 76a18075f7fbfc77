"""InvertedFile: many vectors on disk, of which a search reads the lists that are near."""

from __future__ import annotations

import math
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.stores.ann.binary_quantization import sign_codes, sign_distances
from llama_index_ace_finetune.stores.ann.flat import exact_cosines
from llama_index_ace_finetune.stores.ann.id_map import UNREADABLE, UNREADABLE_FILE, PointNames, is_permutation, mapped
from llama_index_ace_finetune.stores.ann.scalar_quantization import int8_scores, score_errors
from llama_index_ace_finetune.utils.checked import checked
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.open_file import open_file
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.refusal import UnusableFileError

MANIFEST: Final = "inverted_file.json"
VECTORS: Final = "vectors.float32"
CODES, SCALES, SIGNS, ROWS = "codes.npy", "scales.npy", "signs.npy", "rows.npy"
BOUNDS, CENTROIDS, MEAN = "bounds.npy", "centroids.npy", "mean.npy"
DEPTH: Final = 30
FORMAT_VERSION = 1
_DEVIATIONS = 6
_ROWS_PER_HIT = 20
_ROWS_AT_ONCE = 65_536
_TINY = np.float32(1e-30)


@dataclass(frozen=True, kw_only=True)
class InvertedFileInfo:
    """What an inverted file holds, and what its builder measured.

    Attributes:
        count: vectors.
        dimension: of each.
        probes: lists that a search reads.
        kept: of their rows, how many it scores, those whose signs are most like the query's.
        recall: share of the 30 nearest vectors that are among these, over queries made up of stored vectors.
    """

    count: int
    dimension: int
    probes: int
    kept: int
    recall: float


class InvertedFile:
    """Unit vectors in lists around centroids (IVF; Jégou et al., 2011), as `InvertedFileBuilder` writes them.

    A search compares the query with the centroids, the signs of its coordinates with those of the rows in the nearest
    lists, the rows most like it in 8 bits, and the best of them by their float32 vectors, so that what it returns are
    exact cosines; it may miss some vectors. What is resident are signs, 8-bit rows and ids; of the float32 vectors, a
    search reads some dozens from the file. Threads may search side by side.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder.

        Raises:
            StoreError: if it holds no whole inverted file.
        """
        self.folder = folder
        try:
            self.info = _read_info(folder)
            self.names = PointNames(folder)
            self._codes, self._scales = mapped(folder / CODES, np.int8, 2), mapped(folder / SCALES, np.float32)
            self._signs, self._rows = mapped(folder / SIGNS, np.uint64, 2), mapped(folder / ROWS, np.int32)
            self._bounds = mapped(folder / BOUNDS, np.int64)
            self._centroids, self._mean = mapped(folder / CENTROIDS, np.float32, 2), mapped(folder / MEAN, np.float32)
            self._file = open_file(folder / VECTORS)
        except UnusableFileError as error:
            raise UNREADABLE.because(folder, f"cannot be read ({VECTORS} {error})") from error
        weakref.finalize(self, self._file.close)
        if not self._is_whole():
            raise UNREADABLE.because(folder, "are not whole")
        count = self.info.count
        self._places = np.empty(count, np.int32)
        self._places[self._rows] = np.arange(count, dtype=np.int32)
        self._reading = fork_safe_lock()

    def _is_whole(self) -> bool:
        """Whether the files fit each other, so that no row or list points past them."""
        count, dimension = self.info.count, self.info.dimension
        sizes = {len(self._codes), len(self._scales), self._signs.shape[1], len(self._rows), len(self.names)}
        widths = {self._codes.shape[1], self._centroids.shape[1], len(self._mean)}
        return (
            sizes == {count}
            and widths == {dimension}
            and len(self._signs) == -(-dimension // 64)
            and os.fstat(self._file.fileno()).st_size == 4 * count * dimension
            and len(self._bounds) == len(self._centroids) + 1
            and (self._bounds[0], self._bounds[-1]) == (0, count)
            and bool((np.diff(self._bounds) >= 0).all())
            and is_permutation(self._rows, count)
        )

    def __len__(self) -> int:
        return self.info.count

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of some rows, float32 [n, dimension], from the file."""
        stride, parts = 4 * self.info.dimension, []
        with self._reading:  # not memory-mapped, since every page that was touched would count as resident
            for row in rows:
                self._file.seek(int(row) * stride)
                parts.append(self._file.read(stride))
        return np.frombuffer(b"".join(parts), np.float32).reshape(len(rows), self.info.dimension)

    def search(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        gone: NDArray[np.bool_] | None = None,
        only: NDArray[np.int64] | None = None,
    ) -> list[tuple[str, float]]:
        """Return node ids and cosines of the k nearest to a query [dimension], best first, ties by node id.

        Args:
            query: of any length.
            k: at most so many.
            gone: rows to leave out, bool [count].
            only: the rows to search, all of which are compared; by default those of the nearest lists.
        """
        query = query / max(np.linalg.norm(query), _TINY)
        if only is not None:
            rows = only if gone is None else only[~gone[only]]
            return self._best(self._places[rows].astype(np.int64), query, k)
        wider = max(1.0, k / DEPTH)
        lists = np.argsort(-(self._centroids @ query), kind="stable")
        wide = np.cumsum(np.diff(self._bounds)[lists])
        probes = max(math.ceil(wider * self.info.probes), int(np.searchsorted(wide, _ROWS_PER_HIT * k)) + 1)
        kept = max(math.ceil(wider * self.info.kept), _ROWS_PER_HIT * k)
        hits = self._best(self._like(lists[:probes], query, kept, gone), query, k)
        if len(hits) < k and probes < len(lists):  # most of what was read is gone
            hits = self._best(self._like(lists, query, kept, gone), query, k)
        return hits

    def _like(
        self, lists: NDArray[np.int64], query: NDArray[np.float32], kept: int, gone: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Return the places in some lists whose signs are most like the query's: `kept`, and as good as the last."""
        spans = [slice(self._bounds[number], self._bounds[number + 1]) for number in lists]
        places = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        distances = sign_distances(self._signs, spans, sign_codes(query[None], self._mean))
        if gone is not None:
            there = ~gone[self._rows[places]]
            places, distances = places[there], distances[there]
        if len(places) <= kept:
            return places
        last = int(np.searchsorted(np.cumsum(np.bincount(distances)), kept))
        return places[distances <= last]

    def _best(self, places: NDArray[np.int64], query: NDArray[np.float32], k: int) -> list[tuple[str, float]]:
        """Return the k best of some places: what 8 bits may have put in a wrong order is scored again."""
        scores = np.empty(len(places), np.float32)
        for start in range(0, len(places), _ROWS_AT_ONCE):
            block = places[start : start + _ROWS_AT_ONCE]
            scores[start : start + len(block)] = int8_scores(self._codes[block], self._scales[block], query)
        if len(places) > k:
            errors = _DEVIATIONS * score_errors(self._scales[places])
            last = np.partition(scores - errors, len(scores) - k)[len(scores) - k]
            places = places[scores + errors >= last]
        rows = np.sort(self._rows[places])  # in the file's order
        best = zip(self.names.node_ids(rows), exact_cosines(self.vectors(rows), query), strict=True)
        return sorted(best, key=lambda hit: (-hit[1], hit[0]))[:k]


def _read_info(folder: Path) -> InvertedFileInfo:
    content = read_json_object(folder / MANIFEST, UNREADABLE_FILE)
    if content.pop("format_version", None) != FORMAT_VERSION:
        raise UNREADABLE.because(folder, "are of another version")
    info = checked(content, InvertedFileInfo, folder / MANIFEST, UNREADABLE_FILE)
    if min(info.count, info.dimension, info.probes, info.kept) < 1:
        raise UNREADABLE.because(folder, "cannot be read (a number is out of its range)")
    return info
