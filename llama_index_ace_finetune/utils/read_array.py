"""Read NumPy arrays from untrusted files."""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from llama_index_ace_finetune.utils.file_errors import Refusal, UnusableFileError
from llama_index_ace_finetune.utils.open_file import open_file

_MAGIC: Final = b"\x93NUMPY"
_MAX_HEADER: Final = 10_000  # NumPy's own limit
# The header is a Python literal; NumPy evaluates it, and a damaged one raises a dozen kinds of exceptions.
_HEADER: Final = re.compile(
    r"\{'descr': '([<>|=][biufSU]\d{1,6})', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n"
)


def read_array_file(
    path: Path,
    refusal: Refusal,
    *,
    dtypes: Container[np.dtype[Any]] | None = None,
    dimensions: int | None = None,
    mapped: bool = False,
    checksum: int | None = None,
) -> NDArray[Any]:
    """Return the array in a .npy file; nothing in it is evaluated or unpickled.

    Args:
        path: of a regular file, which is opened once.
        refusal: builds the error message.
        dtypes: accepted data types; by default booleans, numbers and strings of a fixed length.
        dimensions: required number of dimensions.
        mapped: map the file into memory instead of reading it. The result is a plain array in both cases.
        checksum: `checksum_of` the array that was written; by default it is not compared.

    Raises:
        AceFinetuneError: the refusal's own class.
    """
    try:
        with open_file(path) as handle:
            try:
                array = _array(handle, dtypes, dimensions, mapped)
            except UnusableFileError:
                raise
            except (OSError, ValueError, TypeError, EOFError) as error:
                raise UnusableFileError(f"is corrupt ({error})") from error
    except UnusableFileError as error:
        raise refusal.because(path, error) from error
    if checksum is not None and checksum_of(array) != checksum:
        raise refusal.because(path, "is damaged (its checksum differs)")
    return array


def checksum_of(array: NDArray[Any]) -> int:
    """Return the CRC-32 of an array's values in C order."""
    return zlib.crc32(np.ascontiguousarray(array).data)


def dtypes(*names: DTypeLike) -> frozenset[np.dtype[Any]]:
    """Return data types by name, for `read_array_file`."""
    return frozenset(np.dtype(name) for name in names)


def _array(
    handle: BinaryIO, accepted: Container[np.dtype[Any]] | None, dimensions: int | None, mapped: bool
) -> NDArray[Any]:
    dtype, shape, order = _header(handle)
    if accepted is not None and dtype not in accepted:
        raise UnusableFileError(f"is corrupt (its numbers are {dtype})")
    if dimensions is not None and len(shape) != dimensions:
        raise UnusableFileError(f"is corrupt (it has {len(shape)} dimensions instead of {dimensions})")
    start, size = handle.tell(), os.fstat(handle.fileno()).st_size
    expected = start + dtype.itemsize * math.prod(shape)
    if size != expected:
        raise UnusableFileError(f"is corrupt ({size:,} bytes instead of {expected:,})")
    if not math.prod(shape):
        return np.empty(shape, dtype)  # nothing to map
    if mapped:
        # A plain array: slices of np.memmap itself are slow.
        return np.memmap(handle, dtype, "r", offset=start, shape=shape, order=order).view(np.ndarray)
    return np.fromfile(handle, dtype).reshape(shape, order=order)


def _header(handle: BinaryIO) -> tuple[np.dtype[Any], tuple[int, ...], Any]:
    start = handle.read(8)
    if len(start) < 8 or not start.startswith(_MAGIC) or start[6] not in (1, 2, 3):
        raise UnusableFileError("is corrupt (it is not a .npy file)")
    length = int.from_bytes(handle.read(2 if start[6] == 1 else 4), "little")
    if length > _MAX_HEADER:
        raise UnusableFileError(f"is corrupt (its header claims {length:,} bytes)")
    found = _HEADER.fullmatch(handle.read(length).decode("latin-1"))
    if found is None:
        raise UnusableFileError("is corrupt (its header cannot be read)")
    descr, fortran, numbers = found.groups()
    shape = tuple(int(number) for number in numbers.split(",") if number.strip())
    if len(shape) > 8:
        raise UnusableFileError(f"is corrupt (it has {len(shape)} dimensions)")
    return np.dtype(descr), shape, "F" if fortran == "True" else "C"
