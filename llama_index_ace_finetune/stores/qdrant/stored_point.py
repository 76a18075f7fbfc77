"""Read a point from an embedded Qdrant's file with a restricted unpickler."""

from __future__ import annotations

import datetime
import io
import pickle
import pickletools
import uuid
from array import array
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from qdrant_client import models

from llama_index_ace_finetune.stores.point_ids import PointKey, key_of
from llama_index_ace_finetune.utils.read_json import MAX_DEPTH

DEFAULT_VECTOR: Final = ""  # Qdrant's name of the vector of a collection with one
_CHARACTERS_PER_BYTE: Final = 100
_MAX_BITS: Final = 10_000  # Python writes integers of up to 4,300 digits
_LISTS: Final = (list, tuple, set, frozenset)
_PLAIN_TYPES: Final = (
    type(None), bool, int, float, datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID,
)  # fmt: skip


class ForbiddenClassError(Exception):
    """The pickle of a point names a class that points do not need: Qdrant did not write it."""


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """A stored point: vectors by name (float64 arrays, sparse vectors, lists of arrays) and a JSON payload."""

    id: PointKey
    vector: dict[str, Any]
    payload: dict[str, Any] | None


def read_stored_point(blob: bytes) -> StoredPoint:
    """Return the point that Qdrant pickled.

    Only qdrant-client's point and sparse vector, and plain values, are allowed; the fields of the models are read into
    placeholder classes, so the models themselves are not called.

    Raises:
        ForbiddenClassError: if any other class is named; it is neither imported nor called.
        ValueError: if the row is damaged.
    """
    if not isinstance(blob, bytes):
        raise ValueError("it is not binary")
    try:
        point = _Unpickler(io.BytesIO(blob)).load()
        if not isinstance(point, _Point):
            raise ValueError("it is not a point")
        payload = _payload(point.fields.get("payload"), _SizeLimit(len(blob)))
        return StoredPoint(_id(point.fields.get("id")), _vectors(point.fields.get("vector")), payload)
    except ForbiddenClassError:
        raise
    except MemoryError:
        _require_whole(blob)  # else this machine is short of memory
        raise
    except Exception as error:  # damaged bytes can raise anything
        raise ValueError(f"it is damaged ({type(error).__name__})") from error


def _require_whole(blob: bytes) -> None:
    """Raise ValueError if a row says that it is longer than it is, or numbers more values than it can hold."""
    for opcode, argument, _ in pickletools.genops(blob):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None and argument > len(blob):
            raise ValueError("it is damaged (it numbers more values than it can hold)")


class _Fields:
    """Placeholder for a model of qdrant-client; keeps only its fields."""

    __slots__ = ("fields",)
    fields: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.fields = state["__dict__"]


class _Point(_Fields):
    __slots__ = ()


class _Sparse(_Fields):
    __slots__ = ()


class _Type:
    """Placeholder for a NumPy dtype: older clients store NumPy numbers in payloads."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_flags: Any) -> None:
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise ValueError("it holds an array of another kind")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _number(kind: _Type, data: bytes) -> Any:
    return np.frombuffer(data, np.dtype(f"{kind.order}{kind.code}"))[0].item()


_ALLOWED_CLASSES: Final[dict[tuple[str, str], Any]] = {
    ("qdrant_client.http.models.models", "PointStruct"): _Point,
    ("qdrant_client.http.models.models", "SparseVector"): _Sparse,
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "date"): datetime.date,
    ("datetime", "time"): datetime.time,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("uuid", "UUID"): uuid.UUID,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED_CLASSES[module, name]
        except KeyError:
            raise ForbiddenClassError(f"{module}.{name}"[:80]) from None

    def persistent_load(self, pid: Any) -> Any:
        raise ForbiddenClassError("a persistent id")


def _id(value: Any) -> PointKey:
    if isinstance(value, bool) or not isinstance(value, (int, str, uuid.UUID)):
        raise ValueError("it has no id")
    return key_of(value)


def _vectors(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    named = value if isinstance(value, dict) else {DEFAULT_VECTOR: value}
    return {str(name): _vector(one) for name, one in named.items() if one is not None}


def _vector(value: Any) -> Any:
    if isinstance(value, _Sparse):
        indices, values = array("L", value.fields["indices"]), _floats(value.fields["values"])
        if len(indices) != len(values):
            raise ValueError("its sparse vector has unequal numbers of indices and values")
        return models.SparseVector(indices=indices.tolist(), values=values.tolist())
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [_floats(row) for row in value]
    return _floats(value)


def _floats(values: Any) -> np.ndarray:
    if not isinstance(values, list):
        raise ValueError("its vector is not a list")
    numbers = np.frombuffer(array("d", values))  # raises for anything but numbers
    if not np.isfinite(numbers).all():
        raise ValueError("its vector has NaN or infinite values")
    return numbers


class _SizeLimit:
    """Limits the expanded size of a payload: a pickle can reference one list or text a million times."""

    def __init__(self, stored: int) -> None:
        self._values, self._characters = stored, _CHARACTERS_PER_BYTE * stored

    def count(self, characters: int = 0) -> None:
        self._values -= 1
        self._characters -= characters
        if self._values < 0 or self._characters < 0:
            raise ValueError("its payload expands to more than its stored size allows")


def _payload(value: Any, limit: _SizeLimit) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise ValueError("its payload is not a JSON object")
    _check_size(value, limit, MAX_DEPTH)
    return value


def _check_size(value: Any, limit: _SizeLimit, depth: int) -> None:
    """Raise ValueError for a payload that JSON cannot represent, or that is too large or nested too deeply."""
    if depth < 0:
        raise ValueError("its payload is nested too deeply")
    kind = type(value)
    if kind is dict:
        limit.count()
        for key, inner in value.items():
            limit.count(len(key))  # a TypeError if the key is a number
            _check_size(inner, limit, depth - 1)
    elif kind in _LISTS:
        limit.count()
        for inner in value:
            _check_size(inner, limit, depth - 1)
    elif kind is str:
        limit.count(len(value))
    elif kind not in _PLAIN_TYPES or (kind is int and value.bit_length() > _MAX_BITS):
        raise ValueError("its payload has a value that JSON cannot represent")
    else:
        limit.count()
