"""IdMap: point ids and node ids of the rows of an index, in memory-mapped arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.file_errors import Refusal, UnusableFileError
from llama_index_ace_finetune.utils.open_file import open_file
from llama_index_ace_finetune.utils.read_array import dtypes, read_array_file

UNREADABLE: Final = Refusal("The vectors in", "delete that folder to have it rebuilt", StoreError)
UNREADABLE_FILE: Final = Refusal("The file", "delete that folder to have it rebuilt", StoreError)
_NO_BYTES: Final = np.empty(0, np.uint8)
_KEY = np.dtype("S17")
_KEYS, _ORDER, _IDS, _ENDS = "keys.npy", "key_order.npy", "ids.bin", "id_ends.npy"


class IdMapWriter:
    """Writes the files of an `IdMap`, row by row."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys: list[NDArray[np.bytes_]] = []
        self._ends: list[NDArray[np.int64]] = []
        self._last = 0
        self._ids = (folder / _IDS).open("wb")

    def add(self, points: Sequence[PointKey], ids: Sequence[str]) -> None:
        """Append rows."""
        encoded = [name.encode("utf-8", "surrogatepass") for name in ids]
        ends = self._last + np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._ids.write(b"".join(encoded))
        self._last = int(ends[-1]) if len(ends) else self._last
        self._ends.append(ends)
        self._keys.append(_packed(points))

    def close(self) -> None:
        """Write the arrays; an `IdMap` without rows if nothing was added."""
        self._ids.close()
        keys = np.concatenate([np.empty(0, _KEY), *self._keys])
        np.save(self._folder / _KEYS, keys)
        np.save(self._folder / _ORDER, np.argsort(keys, kind="stable").astype(np.int32))
        np.save(self._folder / _ENDS, np.concatenate([np.zeros(1, np.int64), *self._ends]))


class IdMap:
    """Maps rows 0, 1, 2, ... to node ids, and point ids to rows."""

    def __init__(self, folder: Path) -> None:
        """Raise StoreError if the files are missing, damaged, or of different sizes."""
        self._folder = folder
        self._keys = map_array(folder / _KEYS, _KEY)
        self._order = map_array(folder / _ORDER, np.int32)
        self._ends = map_array(folder / _ENDS, np.int64)
        try:
            content = open_file(folder / _IDS)
        except UnusableFileError as error:
            raise UNREADABLE.because(folder, f"cannot be read ({_IDS} {error})") from error
        with content:
            size = os.fstat(content.fileno()).st_size
            if not self._is_consistent(size):
                raise UNREADABLE.because(folder, "are damaged (the files of their ids do not agree)")
            self._ids = np.memmap(content, np.uint8, "r", shape=(size,)).view(np.ndarray) if size else _NO_BYTES

    def _is_consistent(self, size: int) -> bool:
        """Whether every row is in the sort order once, and has an id within `size` bytes."""
        return (
            len(self._ends) == len(self._keys) + 1
            and (self._ends[0], self._ends[-1]) == (0, size)
            and bool((np.diff(self._ends) >= 0).all())
            and is_permutation(self._order, len(self._keys))
        )

    def __len__(self) -> int:
        return len(self._keys)

    def node_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the node ids of some rows; raises StoreError for ids that are not valid text."""
        encoded_ids = [bytes(self._ids[self._ends[row] : self._ends[row + 1]]) for row in rows]
        try:
            return [name.decode("utf-8", "surrogatepass") for name in encoded_ids]
        except UnicodeDecodeError as error:
            raise UNREADABLE.because(self._folder, "are damaged (an id is not valid text)") from error

    def rows(self, points: Iterable[PointKey]) -> NDArray[np.int64]:
        """Return the row of each point, -1 for an unknown one."""
        wanted = _packed(points)
        if not len(self._keys):
            return np.full(len(wanted), -1, np.int64)
        places = np.searchsorted(self._keys, wanted, sorter=self._order)
        rows = self._order[np.minimum(places, len(self._order) - 1)].astype(np.int64)
        return np.where(self._keys[rows] == wanted, rows, -1)


def _packed(points: Iterable[PointKey]) -> NDArray[np.bytes_]:
    """Return numbers and UUIDs as 17 bytes each; a number and the UUID of the same bits are different points."""
    return np.array(
        [
            b"n" + point.to_bytes(16, "big") if isinstance(point, int) else b"u" + bytes.fromhex(point.replace("-", ""))
            for point in points
        ],
        _KEY,
    )


def map_array(file: Path, dtype: DTypeLike, dimensions: int = 1) -> NDArray[Any]:
    """Memory-map an array in a file; raises StoreError for another type or number of dimensions."""
    return read_array_file(file, UNREADABLE_FILE, dtypes=dtypes(dtype), dimensions=dimensions, mapped=True)


def is_permutation(rows: NDArray[np.int32], count: int) -> bool:
    """Whether `rows` holds each of 0, 1, ... count - 1 once."""
    if len(rows) != count or (count and (rows.min() < 0 or rows.max() >= count)):
        return False
    return bool((np.bincount(rows, minlength=count) == 1).all())
