"""Read and validate the header of an untrusted safetensors file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune.errors import quoted
from llama_index_ace_finetune.utils.file_errors import Refusal, UnusableFileError
from llama_index_ace_finetune.utils.open_file import open_file
from llama_index_ace_finetune.utils.read_json import parse_json

MAX_HEADER: Final = 32 * 2**20
"""Bytes; a model with ten thousand tensors has a header of about 1 MB."""

_MAX_DIMENSIONS: Final = 16
_BITS: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor in a header: data type, shape, and byte range after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_safetensors_header(path: Path, refusal: Refusal) -> dict[str, TensorEntry]:
    """Return the tensors of a safetensors file by name, checked against each other and the file's size.

    Raises:
        AceFinetuneError: the refusal's own class, for a file that the safetensors library would not open or that
            would make it allocate more than the file holds.
    """
    try:
        with open_file(path) as handle:
            size = os.fstat(handle.fileno()).st_size
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or length > size - 8:
                raise UnusableFileError("is corrupt or half-written (its header is longer than the file)")
            if length > MAX_HEADER:
                raise UnusableFileError(f"is corrupt (its header claims {length:,} bytes, at most {MAX_HEADER:,})")
            content = handle.read(length)
        try:
            header = parse_json(content.decode("utf-8"), unique_keys=True)
        except ValueError as error:
            raise UnusableFileError(f"is corrupt (unreadable header: {error})") from error
        tensors = _tensors(header)
        end = 0
        for entry in sorted(tensors.values(), key=lambda one: (one.start, one.end)):
            if entry.start != end:
                raise UnusableFileError("is corrupt (its tensors overlap or leave gaps)")
            end = entry.end
        if size != 8 + length + end:
            raise UnusableFileError(f"is corrupt or half-written ({size:,} bytes instead of {8 + length + end:,})")
    except OSError as error:
        raise refusal.because(path, f"cannot be read ({error.strerror})") from error
    except UnusableFileError as error:
        raise refusal.because(path, error) from error
    return tensors


def _tensors(header: Any) -> dict[str, TensorEntry]:
    if not isinstance(header, dict):
        raise UnusableFileError("is corrupt (unreadable header: it is not an object)")
    return {name: _entry(name, value) for name, value in header.items() if name != "__metadata__"}


def _entry(name: str, value: Any) -> TensorEntry:
    fault = UnusableFileError(f"is corrupt (unreadable header: the tensor {quoted(name)})")
    if not isinstance(value, dict):
        raise fault
    dtype, shape, offsets = value.get("dtype"), _sizes(value.get("shape")), _sizes(value.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BITS or shape is None or offsets is None or len(offsets) != 2:
        raise fault
    start, end = offsets
    if math.prod(shape) * _BITS[dtype] != 8 * (end - start):
        raise fault
    return TensorEntry(dtype, shape, start, end)


def _sizes(value: Any) -> tuple[int, ...] | None:
    """The value as a tuple if it is a short list of non-negative integers, else None."""
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return None
    return tuple(value) if all(type(number) is int and 0 <= number < 2**63 for number in value) else None
