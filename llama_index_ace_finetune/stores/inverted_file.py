"""InvertedFile: many vectors on disk, of which a search reads the lists that are near."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.int8_rows import int8_scores, score_errors
from llama_index_ace_finetune.stores.nearest import exact_cosines
from llama_index_ace_finetune.stores.point_names import PointNames

MANIFEST: Final = "inverted_file.json"
VECTORS: Final = "vectors.float32"
CODES, SCALES, ROWS, BOUNDS, CENTROIDS = "codes.npy", "scales.npy", "rows.npy", "bounds.npy", "centroids.npy"
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
        recall: share of the 30 nearest vectors that lie in these lists, over queries made up of stored vectors.
    """

    count: int
    dimension: int
    probes: int
    recall: float


class InvertedFile:
    """Unit vectors in lists around centroids (IVF; Jégou et al., 2011), as `InvertedFileBuilder` writes them.

    A search compares the query with the centroids, reads the rows of the nearest lists in 8 bits, and scores the best
    again by their float32 vectors, so that what it returns are exact cosines; it may miss vectors in other lists. What
    is resident are the 8-bit rows and the ids; of the float32 vectors, a search reads some dozens from the file.
    Threads may search side by side.
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
            self._codes, self._scales, self._rows = (_mapped(folder / name) for name in (CODES, SCALES, ROWS))
            self._bounds, self._centroids = np.load(folder / BOUNDS), np.load(folder / CENTROIDS)
            self._file = (folder / VECTORS).open("rb", buffering=0)
            weakref.finalize(self, self._file.close)
        except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"The vectors in {str(folder)!r} cannot be read ({error}); delete that folder to have it made again."
            ) from error
        count, dimension = self.info.count, self.info.dimension
        size = (folder / VECTORS).stat().st_size
        if {len(self._codes), len(self._rows), len(self.names), size // (4 * dimension)} != {count}:
            raise StoreError(f"The vectors in {str(folder)!r} are not whole; delete that folder to have it made again.")
        self._places = np.empty(count, np.int32)
        self._places[self._rows] = np.arange(count, dtype=np.int32)
        self._reading = threading.Lock()

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
            places = self._places[only if gone is None else only[~gone[only]]]
            blocks = [places[start : start + _ROWS_AT_ONCE] for start in range(0, len(places), _ROWS_AT_ONCE)]
            return self._best(blocks, query, k, None)
        lists = np.argsort(-(self._centroids @ query), kind="stable")
        spans = [slice(self._bounds[number], self._bounds[number + 1]) for number in lists]
        rows = np.cumsum(np.diff(self._bounds)[lists])
        probes = max(self.info.probes, int(np.searchsorted(rows, _ROWS_PER_HIT * k)) + 1)
        hits = self._best(spans[:probes], query, k, gone)
        # Where most of what was read is gone, all lists are read.
        return hits if len(hits) == k or probes >= len(lists) else self._best(spans, query, k, gone)

    def _best(
        self,
        blocks: Sequence[slice | NDArray[np.int32]],
        query: NDArray[np.float32],
        k: int,
        gone: NDArray[np.bool_] | None,
    ) -> list[tuple[str, float]]:
        """Return the k best of some blocks of places: those that rounding may have moved are scored again."""
        if not blocks:
            return []
        scales = [self._scales[block] for block in blocks]
        scores = np.concatenate(
            [int8_scores(self._codes[block], own, query) for block, own in zip(blocks, scales, strict=True)]
        )
        errors = _DEVIATIONS * score_errors(np.concatenate(scales))
        rows = np.concatenate([self._rows[block] for block in blocks])
        if gone is not None:
            scores = np.where(gone[rows], -np.inf, scores)
        likely = scores > -np.inf
        if len(rows) > k:
            likely &= scores + errors >= np.partition(scores - errors, len(rows) - k)[len(rows) - k]
        rows = np.sort(rows[likely])  # in the file's order
        best = zip(self.names.node_ids(rows), exact_cosines(self.vectors(rows), query), strict=True)
        return sorted(best, key=lambda hit: (-hit[1], hit[0]))[:k]


def _read_info(folder: Path) -> InvertedFileInfo:
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if content.pop("format_version") != FORMAT_VERSION:
        raise ValueError("they are of another version")
    return InvertedFileInfo(**content)


def _mapped(file: Path) -> Any:
    return np.load(file, mmap_mode="r")
