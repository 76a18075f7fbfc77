"""StoredWindows: vectors of the windows of long texts, by text, and the folder that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Progress
from llama_index_ace_finetune.encoders.text_windows import WindowEncoder
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.utils.atomic import new_file, write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.new_folder import new_folder
from llama_index_ace_finetune.utils.read_array import checksum_of, dtypes, read_array_file
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.text_key import KEY_BYTES, text_key
from llama_index_ace_finetune.utils.validation import checked

KIND: Final = "windows"
MAX_CHANGES: Final = 256
"""Changes after which the folder is written again."""
_MAPPED_FROM: Final = 256 * 2**20
"""Bytes of a file that is mapped into memory; a smaller one is read."""
_DAMAGED: Final = Refusal("The file", "build the index again", StoreError)
_ARRAYS: Final = {
    "keys": (dtypes(np.uint8), 2), "counts": (dtypes(np.int64), 1), "vectors": (dtypes(np.float32), 2),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Meta:
    """Content of `meta.json`, which is written last: the fingerprint, and the CRC-32 of each array."""

    fingerprint: str
    dimension: int
    checksums: dict[str, int]


class StoredWindows:
    """Vectors of the windows of texts, by text: a changed text has another key, and equal texts share their windows.

    A text that the model reads to its end is stored too, with no window, so that it is not looked at again.

    A folder that they were opened from is written again after `MAX_CHANGES` changes and by `flush`. After a kill before
    that, the windows of some texts have to be encoded again. If several processes write, the last one wins.
    """

    def __init__(self, encoder: WindowEncoder) -> None:
        self.encoder = encoder
        self.folder: Path | None = None
        self._vectors: dict[str, NDArray[np.float32]] = {}  # of the windows of each text, float32 [w, d]
        self._opened: NDArray[np.float32] | None = None  # all of them, as long as they are those of the folder
        self._changes = 0
        self._lock = fork_safe_lock()

    def __len__(self) -> int:
        return len(self._vectors)

    def __contains__(self, key: object) -> bool:
        return key in self._vectors

    def is_short(self, key: str) -> bool:
        """Whether a text was looked at and has no windows, by its `text_key`."""
        vectors = self._vectors.get(key)
        return vectors is not None and not len(vectors)

    @property
    def keys(self) -> list[str]:
        """The `text_key` of each text."""
        return list(self._vectors)

    def windows(self, keys: Iterable[str] | None = None) -> tuple[list[str], NDArray[np.int64], NDArray[np.float32]]:
        """Return the texts with windows, of all texts or of those with some keys.

        Returns:
            The key of each text, the number of its windows int64 [n], and the vectors of all windows, text after text,
            float32 [r, d]; as long as they are those of the folder, and many, mapped into memory.
        """
        with self._lock:
            every = self._vectors if keys is None else {key: self._vectors[key] for key in keys}
            found = {key: vectors for key, vectors in every.items() if len(vectors)}
            counts = np.array([len(vectors) for vectors in found.values()], np.int64)
            if keys is None and self._opened is not None:
                return list(found), counts, self._opened
            return list(found), counts, self._joined(found.values())

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Return the distinct texts that were not looked at yet."""
        return [text for text in dict.fromkeys(texts) if text_key(text) not in self._vectors]

    def add(self, texts: Iterable[str], *, cache: Path | None = None, progress: Progress | None = None) -> int:
        """Split and encode the texts that were not looked at yet, however many; return their number.

        Args:
            texts: of memories.
            cache: folder for vectors.
            progress: called with the number of windows just encoded.
        """
        with self._lock:
            missing = self.missing(texts)
            windows = self.encoder.split(missing)
            self._add(missing, windows, cache, progress)
        return len(missing)

    def add_windows(
        self,
        texts: Sequence[str],
        windows: Sequence[Sequence[str]],
        *,
        cache: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Encode the windows of texts, which `WindowEncoder.split` returned."""
        with self._lock:
            self._add(texts, windows, cache, progress)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the windows of texts by their `text_key`; unknown ones are ignored."""
        with self._lock:
            known = [key for key in dict.fromkeys(keys) if key in self._vectors]
            for key in known:
                del self._vectors[key]
            self._changed(len(known))

    def flush(self) -> None:
        """Write changes to the folder that the windows were opened from.

        Raises:
            StoreError: if the folder is missing or damaged, or holds the windows of another model now.
        """
        with self._lock:
            if self.folder is not None and self._changes:
                _read_meta(self.folder, self.encoder)
                self._write(self.folder)

    def save(self, folder: Path) -> None:
        """Write all windows to a folder, which replaces one there as a whole.

        Raises:
            OutputExistsError: if the folder holds something else.
        """
        with self._lock:
            self._write(folder)

    def _add(
        self,
        texts: Sequence[str],
        windows: Sequence[Sequence[str]],
        cache: Path | None,
        progress: Progress | None,
    ) -> None:
        vectors = self.encoder.encode([one for each in windows for one in each], cache=cache, progress=progress)
        ends = np.cumsum([len(each) for each in windows], dtype=np.int64)[:-1]
        self._vectors.update(zip(map(text_key, texts), np.split(vectors, ends), strict=False))
        self._changed(len(texts))

    def _changed(self, count: int) -> None:
        self._changes += count
        self._opened = self._opened if self._changes == 0 else None
        if self.folder is not None and self._changes >= MAX_CHANGES:
            _read_meta(self.folder, self.encoder)
            self._write(self.folder)

    def _write(self, folder: Path) -> None:
        arrays: dict[str, NDArray[Any]] = {
            "keys": np.frombuffer(bytes.fromhex("".join(self._vectors)), np.uint8).reshape(-1, KEY_BYTES),
            "counts": np.array([len(vectors) for vectors in self._vectors.values()], np.int64),
            "vectors": self._joined(self._vectors.values()),
        }
        checksums = {name: checksum_of(array) for name, array in arrays.items()}
        meta = _Meta(
            fingerprint=self.encoder.fingerprint, dimension=self.encoder.encoder.dimension, checksums=checksums
        )
        with new_folder(folder, kind=KIND, wait=True) as aside:
            for name, array in arrays.items():
                with new_file(aside / f"{name}.npy") as handle:
                    np.save(handle, array, allow_pickle=False)
            write_json(aside / "meta.json", asdict(meta))
        self._changes = 0

    def _joined(self, vectors: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate([np.empty((0, self.encoder.encoder.dimension), np.float32), *vectors])

    @classmethod
    def open(cls, folder: Path, encoder: WindowEncoder) -> StoredWindows:
        """Read the windows in a folder; large files are mapped into memory.

        Raises:
            StoreError: if they are missing or damaged, or another model or other settings made them.
        """
        meta = _read_meta(folder, encoder)
        arrays = {name: _read(folder / f"{name}.npy", meta.checksums[name], *_ARRAYS[name]) for name in _ARRAYS}
        keys, counts, vectors = arrays["keys"], arrays["counts"], arrays["vectors"]
        consistent = (
            keys.shape[1] == KEY_BYTES
            and len(counts) == len(keys)
            and bool((counts >= 0).all())
            and vectors.shape == (counts.sum(), meta.dimension)
            and bool(np.isfinite(vectors).all())
        )
        if not consistent:
            raise _DAMAGED.because(folder / "vectors.npy", "is damaged (it does not fit the other files)")
        made = cls(encoder)
        made.folder, made._opened = folder, vectors
        ends, none = np.cumsum(counts).tolist(), vectors[:0]
        spans = zip(keys, [0, *ends], ends, strict=False)
        made._vectors = {key.tobytes().hex(): vectors[start:end] if end > start else none for key, start, end in spans}
        return made


def _read_meta(folder: Path, encoder: WindowEncoder) -> _Meta:
    file = folder / "meta.json"
    if not file.is_file():
        raise StoreError(f"There are no windows of long texts in {str(folder)!r}; build the index again.")
    meta = checked(read_json_object(file, _DAMAGED), _Meta, file, _DAMAGED)
    if (meta.fingerprint, meta.dimension) != (encoder.fingerprint, encoder.encoder.dimension):
        raise StoreError(
            f"The windows in {str(folder)!r} were made by another model or other settings than those of "
            f"{encoder.encoder.name!r:.200}; build the index again."
        )
    if meta.checksums.keys() != _ARRAYS.keys():
        raise _DAMAGED.because(file, "is damaged (it does not name all arrays)")
    return meta


def _read(file: Path, checksum: int, accepted: Any, dimensions: int) -> NDArray[Any]:
    large = file.is_file() and file.stat().st_size > _MAPPED_FROM
    return read_array_file(file, _DAMAGED, dtypes=accepted, dimensions=dimensions, mapped=large, checksum=checksum)
