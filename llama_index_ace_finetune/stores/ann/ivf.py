"""IVFIndex: vectors on disk, divided into lists; a search reads only the nearest lists."""

from __future__ import annotations

import math
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.dense import exact_cosines
from llama_index_ace_finetune.stores.ann.binary_quantization import binary_codes, hamming_distances
from llama_index_ace_finetune.stores.ann.id_map import UNREADABLE, UNREADABLE_FILE, IdMap, is_permutation, map_array
from llama_index_ace_finetune.stores.ann.scalar_quantization import int8_scores, score_errors
from llama_index_ace_finetune.utils.file_errors import UnusableFileError
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.open_file import open_file
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.validation import checked

MANIFEST: Final = "inverted_file.json"
VECTORS: Final = "vectors.float32"
CODES, SCALES, SIGNS, ROWS = "codes.npy", "scales.npy", "signs.npy", "rows.npy"
BOUNDS, CENTROIDS, MEAN = "bounds.npy", "centroids.npy", "mean.npy"
DEPTH: Final = 30
FORMAT_VERSION = 1
_DEVIATIONS = 6
_ROWS_PER_HIT = 20
# Of a float32 product of unit vectors: it depends on the row, by the kernels of the processor.
_NOISE = np.float32(2e-6)
_ROWS_AT_ONCE = 65_536
_TINY = np.float32(1e-30)


@dataclass(frozen=True, kw_only=True)
class IVFInfo:
    """Size of an index, and the search parameters that its builder measured.

    Attributes:
        count: number of vectors.
        dimension: of each vector.
        probes: lists that a search reads (nprobe).
        kept: rows of these lists that are scored: the nearest by binary quantization.
        recall: recall@30 with these parameters, over synthetic queries near stored vectors.
    """

    count: int
    dimension: int
    probes: int
    kept: int
    recall: float


class IVFIndex:
    """Unit vectors in lists around centroids (IVF; Jégou et al., 2011), as `IVFBuilder` writes them.

    A search compares the query with the centroids, then with the rows of the nearest lists by binary quantization, then
    with the best of these by scalar quantization (int8), and re-ranks the top by the float32 vectors. It returns exact
    cosines, and may miss some vectors. Binary codes, int8 codes and ids are in memory; some dozens of float32 vectors
    per search are read from the file. Safe to search from several threads.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder.

        Raises:
            StoreError: if it holds no index, or an incomplete or damaged one.
        """
        self.folder = folder
        try:
            self.info = _read_info(folder)
            self.id_map = IdMap(folder)
            self._codes, self._scales = map_array(folder / CODES, np.int8, 2), map_array(folder / SCALES, np.float32)
            self._signs, self._rows = map_array(folder / SIGNS, np.uint64, 2), map_array(folder / ROWS, np.int32)
            self._bounds = map_array(folder / BOUNDS, np.int64)
            self._centroids, self._mean = (
                map_array(folder / CENTROIDS, np.float32, 2),
                map_array(folder / MEAN, np.float32),
            )
            self._file = open_file(folder / VECTORS)
        except UnusableFileError as error:
            raise UNREADABLE.because(folder, f"cannot be read ({VECTORS} {error})") from error
        weakref.finalize(self, self._file.close)
        if not self._is_consistent():
            raise UNREADABLE.because(folder, "are incomplete")
        count = self.info.count
        self._positions = np.empty(count, np.int32)
        self._positions[self._rows] = np.arange(count, dtype=np.int32)
        self._reading = fork_safe_lock()

    def _is_consistent(self) -> bool:
        """Whether the sizes of the files agree, so that no row or list points past the end."""
        count, dimension = self.info.count, self.info.dimension
        sizes = {len(self._codes), len(self._scales), self._signs.shape[1], len(self._rows), len(self.id_map)}
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
        """Read the vectors of some rows from the file, float32 [n, dimension]."""
        stride, parts = 4 * self.info.dimension, []
        with self._reading:  # not memory-mapped, since every page that was read would count as resident memory
            for row in rows:
                self._file.seek(int(row) * stride)
                parts.append(self._file.read(stride))
        return np.frombuffer(b"".join(parts), np.float32).reshape(len(rows), self.info.dimension)

    def search(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        deleted: NDArray[np.bool_] | None = None,
        rows_allowed: NDArray[np.int64] | None = None,
    ) -> list[tuple[str, float]]:
        """Return node ids and cosines of the k nearest to a query [dimension], best first, ties by node id.

        Args:
            query: of any norm.
            k: the largest number of hits.
            deleted: rows to leave out, bool [count].
            rows_allowed: search only these rows, all of which are compared; by default the rows of the nearest lists.
        """
        if rows_allowed is not None:
            rows = rows_allowed if deleted is None else rows_allowed[~deleted[rows_allowed]]
            return self._rerank(self._positions[rows].astype(np.int64), query, k)
        wider = max(1.0, k / DEPTH)
        unit = _unit(query)
        near = self._centroids @ unit
        lists = np.argsort(-near, kind="stable")
        wide = np.cumsum(np.diff(self._bounds)[lists])
        probes = max(math.ceil(wider * self.info.probes), int(np.searchsorted(wide, _ROWS_PER_HIT * k)) + 1)
        # Equal vectors are divided among equal centroids, so lists that tie with the last are searched too.
        last = near[lists[min(probes, len(lists)) - 1]]
        probes = max(probes, int(np.count_nonzero(near >= last - _NOISE)))
        kept = max(math.ceil(wider * self.info.kept), _ROWS_PER_HIT * k)
        hits = self._rerank(self._shortlist(lists[:probes], unit, kept, deleted), query, k)
        if len(hits) < k and probes < len(lists):  # most rows of these lists are deleted
            hits = self._rerank(self._shortlist(lists, unit, kept, deleted), query, k)
        return hits

    def _shortlist(
        self, lists: NDArray[np.int64], query: NDArray[np.float32], kept: int, deleted: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Return the `kept` positions in some lists with the nearest binary codes, and those that tie with the last."""
        spans = [slice(self._bounds[number], self._bounds[number + 1]) for number in lists]
        positions = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        distances = hamming_distances(self._signs, spans, binary_codes(query[None], self._mean))
        if deleted is not None:
            present = ~deleted[self._rows[positions]]
            positions, distances = positions[present], distances[present]
        if len(positions) <= kept:
            return positions
        last = int(np.searchsorted(np.cumsum(np.bincount(distances)), kept))
        return positions[distances <= last]

    def _rerank(self, positions: NDArray[np.int64], query: NDArray[np.float32], k: int) -> list[tuple[str, float]]:
        """Return the k best of some positions: scored in int8, then re-ranked in float32 within the int8 error."""
        scores, unit = np.empty(len(positions), np.float32), _unit(query)
        for start in range(0, len(positions), _ROWS_AT_ONCE):
            block = positions[start : start + _ROWS_AT_ONCE]
            scores[start : start + len(block)] = int8_scores(self._codes[block], self._scales[block], unit)
        if len(positions) > k:
            errors = _DEVIATIONS * score_errors(self._scales[positions])
            last = np.partition(scores - errors, len(scores) - k)[len(scores) - k]
            positions = positions[scores + errors >= last]
        rows = np.sort(self._rows[positions])  # in the file's order
        best = zip(self.id_map.node_ids(rows), exact_cosines(self.vectors(rows), query).tolist(), strict=True)
        return sorted(best, key=lambda hit: (-hit[1], hit[0]))[:k]


def _read_info(folder: Path) -> IVFInfo:
    content = read_json_object(folder / MANIFEST, UNREADABLE_FILE)
    if content.pop("format_version", None) != FORMAT_VERSION:
        raise UNREADABLE.because(folder, "are of another format version")
    info = checked(content, IVFInfo, folder / MANIFEST, UNREADABLE_FILE)
    if min(info.count, info.dimension, info.probes, info.kept) < 1:
        raise UNREADABLE.because(folder, "cannot be read (a number is out of range)")
    return info


def _unit(query: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(query / np.maximum(np.linalg.norm(query), _TINY), np.float32)
