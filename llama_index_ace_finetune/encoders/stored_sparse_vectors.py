"""StoredSparseVectors: sparse vectors of texts, by text, and the folder that holds them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from llama_index_ace_finetune.encoders.sparse_encoder import SparseTextEncoder
from llama_index_ace_finetune.errors import StoreError, quoted
from llama_index_ace_finetune.utils.atomic import new_file, write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_array import dtypes, read_array_file
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.validation import checked

MAX_ENCODED: Final = 256
"""Texts without a vector that are encoded at once; more have to be stored by `add`."""
_KEY_BYTES: Final = 16
_DAMAGED: Final = Refusal("The file", "build the sparse vectors again", StoreError)
_ARRAYS: Final = {
    "keys": (dtypes(np.uint8), 2), "offsets": (dtypes(np.int64), 1),
    "columns": (dtypes(np.int32), 1), "weights": (dtypes(np.float32), 1),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Meta:
    """Content of `meta.json`, which is written last: the encoder's fingerprint, and the CRC-32 of each array."""

    fingerprint: str
    dimension: int
    checksums: dict[str, int]


class StoredSparseVectors:
    """Document vectors of a sparse encoder, by text: a changed text has another key, and equal texts share a vector.

    It makes the vectors of a `SparseIndex`. A text without a vector is encoded, at most `MAX_ENCODED` at once.
    """

    def __init__(self, encoder: SparseTextEncoder) -> None:
        self.encoder = encoder
        self._rows: dict[bytes, int] = {}
        self._vectors = csr_array((0, encoder.dimension), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return self.encoder.dimension

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """Return query vectors as CSR rows, float32 [n, dimension]."""
        return self.encoder.encode_queries(texts)

    def encode_documents(self, texts: Sequence[str]) -> csr_array:
        """Return document vectors as CSR rows, float32 [n, dimension], the stored ones where there are some.

        Raises:
            StoreError: if more than `MAX_ENCODED` texts have none.
        """
        missing = self._missing(texts)
        if len(missing) > MAX_ENCODED:
            raise StoreError(f"{len(missing)} of {len(texts)} memories have no sparse vectors; build them again.")
        self.add(missing)
        return csr_array(self._vectors[[self._rows[_key(text)] for text in texts]])

    def add(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> int:
        """Encode the texts without a vector, however many; return their number."""
        missing = self._missing(texts)
        if missing:
            found = self.encoder.encode_documents(missing, progress=progress)
            first = self._vectors.shape[0]
            self._vectors = csr_array(vstack([self._vectors, found], format="csr"))
            self._rows.update((_key(text), first + place) for place, text in enumerate(missing))
        return len(missing)

    def save(self, folder: Path) -> None:
        """Write all vectors into a folder; they count once `meta.json` is there."""
        vectors = self._vectors
        arrays: dict[str, NDArray[Any]] = {
            "keys": np.frombuffer(b"".join(self._rows), np.uint8).reshape(-1, _KEY_BYTES),
            "offsets": vectors.indptr.astype(np.int64),
            "columns": vectors.indices.astype(np.int32),
            "weights": vectors.data,
        }
        (folder / "meta.json").unlink(missing_ok=True)
        for name, array in arrays.items():
            with new_file(folder / f"{name}.npy") as handle:
                np.save(handle, array, allow_pickle=False)
        checksums = {name: zlib.crc32(np.ascontiguousarray(array).data) for name, array in arrays.items()}
        meta = _Meta(fingerprint=self.encoder.fingerprint, dimension=self.dimension, checksums=checksums)
        write_json(folder / "meta.json", asdict(meta))

    @classmethod
    def open(cls, folder: Path, encoder: SparseTextEncoder) -> StoredSparseVectors:
        """Read the vectors in a folder.

        Raises:
            StoreError: if they are missing or damaged, or another encoder made them.
        """
        file = folder / "meta.json"
        if not file.is_file():
            raise StoreError(f"There are no sparse vectors in {str(folder)!r}; build them first.")
        meta = checked(read_json_object(file, _DAMAGED), _Meta, file, _DAMAGED)
        if (meta.fingerprint, meta.dimension) != (encoder.fingerprint, encoder.dimension):
            raise StoreError(
                f"The sparse vectors in {str(folder)!r} are not those of the encoder {quoted(encoder.name, 200)}; "
                "build them again, or give the encoder that made them."
            )
        if meta.checksums.keys() != _ARRAYS.keys():
            raise _DAMAGED.because(file, "is damaged (it does not name all arrays)")
        arrays = {name: _read(folder / f"{name}.npy", meta.checksums[name], *_ARRAYS[name]) for name in _ARRAYS}
        keys, offsets, columns = arrays["keys"], arrays["offsets"], arrays["columns"]
        consistent = (
            keys.shape[1] == _KEY_BYTES
            and len(offsets) == len(keys) + 1
            and (offsets[0], offsets[-1]) == (0, len(columns))
            and bool((np.diff(offsets) >= 0).all())
            and len(arrays["weights"]) == len(columns)
            and bool(((columns >= 0) & (columns < meta.dimension)).all())
            and bool(np.isfinite(arrays["weights"]).all())
        )
        if not consistent:
            raise _DAMAGED.because(folder / "columns.npy", "is damaged (it does not fit the other files)")
        made = cls(encoder)
        made._rows = {key.tobytes(): row for row, key in enumerate(keys)}
        made._vectors = csr_array((arrays["weights"], columns, offsets), shape=(len(keys), meta.dimension))
        return made

    def _missing(self, texts: Sequence[str]) -> list[str]:
        return [text for text in dict.fromkeys(texts) if _key(text) not in self._rows]


def _read(file: Path, checksum: int, accepted: Any, dimensions: int) -> NDArray[Any]:
    array = read_array_file(file, _DAMAGED, dtypes=accepted, dimensions=dimensions)
    if zlib.crc32(np.ascontiguousarray(array).data) != checksum:
        raise _DAMAGED.because(file, "is damaged (its checksum differs)")
    return array


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES]
