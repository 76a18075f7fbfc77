"""Vector cache on disk, so that a text is encoded once per model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.utils.atomic import new_file
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_array import dtypes, read_array_file

_KEY_BYTES = 16
_SHARD = Refusal("The shard", "delete it")


class VectorCache:
    """Vectors of one model in one role, keyed by text.

    The folder is `root/fingerprint/role`, so two trainings in one model folder cannot collide. Each `add` writes one
    immutable shard (keys and vectors, renamed into place), so a killed process loses at most the current shard. A
    damaged shard, one of vectors of another dimension, and a vector with NaN or infinite values are misses: their texts
    are encoded again.
    """

    def __init__(self, root: Path, *, fingerprint: str, role: str, dimension: int) -> None:
        self._folder = root / fingerprint / role
        self._dimension = dimension
        self._rows: dict[bytes, tuple[int, int]] = {}
        self._shards: list[NDArray[np.float32]] = []
        for file in sorted(self._folder.glob("*.keys.npy")):
            self._open(file)

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, texts: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
        """Return which of `texts` are cached (bool [n]) and their vectors (float32 [cached, d]; None if none is)."""
        places = [self._rows.get(_key(text)) for text in texts]
        held = np.array([place is not None for place in places], bool)
        found = np.array([place for place in places if place is not None], np.int64).reshape(-1, 2)
        vectors = np.empty((len(found), self._dimension), np.float32)
        for shard in np.unique(found[:, 0]):
            mask = found[:, 0] == shard
            vectors[mask] = self._shards[shard][found[mask, 1]]
        finite = np.isfinite(vectors).all(axis=1)
        held[held] = finite
        return held, vectors[finite] if finite.any() else None

    def add(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Store one vector [d] per text; `vectors` is float32 [n, d]."""
        if not len(texts):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(_key(text) for text in texts), np.uint8).reshape(-1, _KEY_BYTES)
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
        _write(self._folder / f"{name}.vectors.npy", np.ascontiguousarray(vectors, np.float32))
        # The keys come last: a shard exists once its keys do.
        _write(self._folder / f"{name}.keys.npy", keys)
        self._open(self._folder / f"{name}.keys.npy")

    def _open(self, keys_file: Path) -> None:
        vectors_file = keys_file.with_name(keys_file.name.replace(".keys.", ".vectors."))
        try:
            keys = read_array_file(keys_file, _SHARD, dtypes=dtypes(np.uint8), dimensions=2)
            vectors = read_array_file(vectors_file, _SHARD, dtypes=dtypes(np.float32), dimensions=2, mapped=True)
        except AceFinetuneError:
            return
        if keys.shape[1] != _KEY_BYTES or vectors.shape != (len(keys), self._dimension):
            return
        shard = len(self._shards)
        self._shards.append(vectors)
        for row, key in enumerate(keys):
            self._rows[key.tobytes()] = (shard, row)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES]


def _write(file: Path, array: NDArray[np.float32] | NDArray[np.uint8]) -> None:
    with new_file(file) as handle:
        np.save(handle, array)
