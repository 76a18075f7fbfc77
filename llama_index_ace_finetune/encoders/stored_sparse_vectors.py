"""StoredSparseVectors: sparse vectors of texts, by text, and the folder that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.new_folder import new_folder
from llama_index_ace_finetune.utils.read_array import checksum_of, dtypes, read_array_file
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.text_key import KEY_BYTES, text_key
from llama_index_ace_finetune.utils.validation import checked

MAX_ENCODED: Final = 256
"""Texts without a vector that are encoded at once; more have to be stored by `add`."""
KIND: Final = "sparse vectors"
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

    A folder that they were opened from is written again after `MAX_ENCODED` changes and by `flush`. After a kill before
    that, fewer texts than a search may encode have to be encoded again. If several processes write, the last one wins.
    """

    def __init__(self, encoder: SparseTextEncoder) -> None:
        self.encoder = encoder
        self.folder: Path | None = None
        self._rows: dict[str, int] = {}  # by `text_key`
        self._vectors = csr_array((0, encoder.dimension), dtype=np.float32)
        self._changes = 0
        self._lock = fork_safe_lock()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def keys(self) -> list[str]:
        """The `text_key` of each text with a vector."""
        return list(self._rows)

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
        with self._lock:
            missing = self.missing(texts)
            if len(missing) > MAX_ENCODED:
                raise StoreError(
                    f"{len(missing)} of {len(texts)} memories have no sparse vectors; build the index again, or call "
                    "the retriever's `build_sparse_vectors`."
                )
            self._add(missing)
            return csr_array(self._vectors[[self._rows[text_key(text)] for text in texts]])

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Return the distinct texts without a vector."""
        return [text for text in dict.fromkeys(texts) if text_key(text) not in self._rows]

    def add(self, texts: Iterable[str], *, progress: Callable[[int], None] | None = None) -> int:
        """Encode the texts without a vector, however many; return their number."""
        with self._lock:
            missing = self.missing(texts)
            self._add(missing, progress)
        return len(missing)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the vectors of texts by their `text_key`; unknown ones are ignored."""
        with self._lock:
            known = [key for key in dict.fromkeys(keys) if key in self._rows]
            for key in known:
                del self._rows[key]  # its row is left out when the vectors are written
            self._changed(len(known))

    def flush(self) -> None:
        """Write changes to the folder that the vectors were opened from.

        Raises:
            StoreError: if the folder is missing or damaged, or holds the vectors of another encoder now.
        """
        with self._lock:
            if self.folder is not None and self._changes:
                _read_meta(self.folder, self.encoder)
                self._write(self.folder)

    def save(self, folder: Path) -> None:
        """Write all vectors to a folder, which replaces one there as a whole.

        Raises:
            OutputExistsError: if the folder holds something else.
        """
        with self._lock:
            self._write(folder)

    def _add(self, missing: Sequence[str], progress: Callable[[int], None] | None = None) -> None:
        if not missing:
            return
        found = self.encoder.encode_documents(missing, progress=progress)
        first = self._vectors.shape[0]
        self._vectors = csr_array(vstack([self._vectors, found], format="csr"))
        self._rows.update((text_key(text), first + place) for place, text in enumerate(missing))
        self._changed(len(missing))

    def _changed(self, count: int) -> None:
        self._changes += count
        if self.folder is not None and self._changes >= MAX_ENCODED:
            _read_meta(self.folder, self.encoder)
            self._write(self.folder)

    def _write(self, folder: Path) -> None:
        vectors = csr_array(self._vectors[list(self._rows.values())])
        keys = np.frombuffer(bytes.fromhex("".join(self._rows)), np.uint8).reshape(-1, KEY_BYTES)
        arrays: dict[str, NDArray[Any]] = {
            "keys": keys,
            "offsets": vectors.indptr.astype(np.int64),
            "columns": vectors.indices.astype(np.int32),
            "weights": vectors.data,
        }
        checksums = {name: checksum_of(array) for name, array in arrays.items()}
        meta = _Meta(fingerprint=self.encoder.fingerprint, dimension=self.dimension, checksums=checksums)
        with new_folder(folder, kind=KIND, wait=True) as aside:
            for name, array in arrays.items():
                with new_file(aside / f"{name}.npy") as handle:
                    np.save(handle, array, allow_pickle=False)
            write_json(aside / "meta.json", asdict(meta))
        self._vectors, self._rows = vectors, {key: row for row, key in enumerate(self._rows)}
        self._changes = 0

    @classmethod
    def open(cls, folder: Path, encoder: SparseTextEncoder) -> StoredSparseVectors:
        """Read the vectors in a folder.

        Raises:
            StoreError: if they are missing or damaged, or another encoder made them.
        """
        meta = _read_meta(folder, encoder)
        arrays = {name: _read(folder / f"{name}.npy", meta.checksums[name], *_ARRAYS[name]) for name in _ARRAYS}
        keys, offsets, columns = arrays["keys"], arrays["offsets"], arrays["columns"]
        consistent = (
            keys.shape[1] == KEY_BYTES
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
        made.folder = folder
        made._rows = {key.tobytes().hex(): row for row, key in enumerate(keys)}
        made._vectors = csr_array((arrays["weights"], columns, offsets), shape=(len(keys), meta.dimension))
        return made


def _read_meta(folder: Path, encoder: SparseTextEncoder) -> _Meta:
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
    return meta


def _read(file: Path, checksum: int, accepted: Any, dimensions: int) -> NDArray[Any]:
    return read_array_file(file, _DAMAGED, dtypes=accepted, dimensions=dimensions, checksum=checksum)
