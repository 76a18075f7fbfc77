"""Reading one point of an embedded Qdrant's file without the power that pickle has."""

from __future__ import annotations

import datetime
import io
import pickle
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
_BITS: Final = 10_000  # Python writes integers of up to 4,300 digits
_LISTS: Final = (list, tuple, set, frozenset)
_PLAIN: Final = (
    type(None), bool, int, float, datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID,
)  # fmt: skip


class ForbiddenClassError(Exception):
    """The pickle of a point names a class that no point needs: it was not written by Qdrant."""


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """What a row holds: vectors by name (float64 arrays, sparse vectors, lists of arrays) and a JSON payload."""

    id: PointKey
    vector: dict[str, Any]
    payload: dict[str, Any] | None


def read_stored_point(blob: bytes) -> StoredPoint:
    """Return the point that Qdrant pickled.

    Only qdrant-client's point and sparse vector, and plain values, are admitted; the models are not even called, stand-
    ins take their fields.

    Raises:
        ForbiddenClassError: if anything else is named; it was neither imported nor called.
        ValueError: if the row is damaged.
    """
    if not isinstance(blob, bytes):
        raise ValueError("it is not binary")
    try:
        point = _Unpickler(io.BytesIO(blob)).load()
        if not isinstance(point, _Point):
            raise ValueError("it is no point")
        payload = _payload(point.fields.get("payload"), _Size(len(blob)))
        return StoredPoint(_id(point.fields.get("id")), _vectors(point.fields.get("vector")), payload)
    except (ForbiddenClassError, MemoryError):
        raise
    except Exception as error:  # whatever damaged bytes make of the instructions
        raise ValueError(f"it is damaged ({type(error).__name__})") from error


class _Fields:
    """Takes the place of a model of qdrant-client, and keeps its fields only."""

    __slots__ = ("fields",)
    fields: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.fields = state["__dict__"]


class _Point(_Fields):
    __slots__ = ()


class _Sparse(_Fields):
    __slots__ = ()


class _Type:
    """Takes the place of a NumPy dtype: older clients store numbers of NumPy in payloads as they are."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_flags: Any) -> None:
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise ValueError("it holds an array of another kind")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _number(kind: _Type, data: bytes) -> Any:
    return np.frombuffer(data, np.dtype(f"{kind.order}{kind.code}"))[0].item()


_ADMITTED: Final[dict[tuple[str, str], Any]] = {
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
            return _ADMITTED[module, name]
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
            raise ValueError("its sparse vector is uneven")
        return models.SparseVector(indices=indices.tolist(), values=values.tolist())
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [_floats(row) for row in value]
    return _floats(value)


def _floats(values: Any) -> np.ndarray:
    if not isinstance(values, list):
        raise ValueError("its vector is no list")
    numbers = np.frombuffer(array("d", values))  # refuses all but numbers
    if not np.isfinite(numbers).all():
        raise ValueError("its vector is not finite")
    return numbers


class _Size:
    """Bounds what a payload unfolds to: a pickle can name one list or text a million times."""

    def __init__(self, stored: int) -> None:
        self._values, self._characters = stored, _CHARACTERS_PER_BYTE * stored

    def take(self, characters: int = 0) -> None:
        self._values -= 1
        self._characters -= characters
        if self._values < 0 or self._characters < 0:
            raise ValueError("its payload unfolds to more than it holds")


def _payload(value: Any, size: _Size) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise ValueError("its payload is no object")
    _measure(value, size, MAX_DEPTH)
    return value


def _measure(value: Any, size: _Size, depth: int) -> None:
    """Raise ValueError for a payload that JSON cannot hold, or that is larger or deeper than it may be."""
    if depth < 0:
        raise ValueError("its payload is nested too deeply")
    kind = type(value)
    if kind is dict:
        size.take()
        for key, inner in value.items():
            size.take(len(key))  # no number has a length
            _measure(inner, size, depth - 1)
    elif kind in _LISTS:
        size.take()
        for inner in value:
            _measure(inner, size, depth - 1)
    elif kind is str:
        size.take(len(value))
    elif kind not in _PLAIN or (kind is int and value.bit_length() > _BITS):
        raise ValueError("its payload holds what JSON cannot")
    else:
        size.take()
