"""StoredWindows: vectors of the windows of long texts, by text, and the folder that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Progress
from llama_index_ace_finetune.encoders.stored_vectors import StoredVectors
from llama_index_ace_finetune.encoders.text_windows import WindowEncoder
from llama_index_ace_finetune.encoders.vector_files import VectorFiles
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_array import dtypes
from llama_index_ace_finetune.utils.text_key import KEY_BYTES, text_key

KIND: Final = "windows"
_MAPPED_FROM: Final = 256 * 2**20
_DAMAGED: Final = Refusal("The file", "build the index again", StoreError)
_ARRAYS: Final = {
    "keys": (dtypes(np.uint8), 2), "counts": (dtypes(np.int64), 1), "vectors": (dtypes(np.float32), 2),
}  # fmt: skip


class StoredWindows(StoredVectors[NDArray[np.float32]]):
    """Vectors of the windows of texts, by text: a changed text has another key, and equal texts share their windows.

    A text that the model reads to its end is stored too, with no window, so that it is not looked at again.

    A folder that they were opened from is written again after `MAX_CHANGES` changes and by `flush`. After a kill before
    that, the windows of some texts have to be encoded again. If several processes write, the last one wins.
    """

    def __init__(self, encoder: WindowEncoder) -> None:
        super().__init__(_files(encoder))
        self.encoder = encoder
        # `_by_text`: the vectors of the windows of each text, float32 [w, d].
        self._opened: NDArray[np.float32] | None = None  # all of them, as long as they are those of the folder

    def __contains__(self, key: object) -> bool:
        return key in self._by_text

    def is_short(self, key: str) -> bool:
        """Whether a text was looked at and has no windows, by its `text_key`."""
        vectors = self._by_text.get(key)
        return vectors is not None and not len(vectors)

    def windows(self, keys: Iterable[str] | None = None) -> tuple[list[str], NDArray[np.int64], NDArray[np.float32]]:
        """Return the texts with windows, of all texts or of those with some keys.

        Returns:
            The key of each text, the number of its windows int64 [n], and the vectors of all windows, text after text,
            float32 [r, d]; as long as they are those of the folder, and many, mapped into memory.
        """
        with self._lock:
            every = self._by_text if keys is None else {key: self._by_text[key] for key in keys}
            found = {key: vectors for key, vectors in every.items() if len(vectors)}
            counts = np.array([len(vectors) for vectors in found.values()], np.int64)
            if keys is None and self._opened is not None:
                return list(found), counts, self._opened
            return list(found), counts, self._joined(found.values())

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

    def _add(
        self,
        texts: Sequence[str],
        windows: Sequence[Sequence[str]],
        cache: Path | None,
        progress: Progress | None,
    ) -> None:
        vectors = self.encoder.encode([one for each in windows for one in each], cache=cache, progress=progress)
        ends = np.cumsum([len(each) for each in windows], dtype=np.int64)[:-1]
        self._by_text.update(zip(map(text_key, texts), np.split(vectors, ends), strict=False))
        self._changed(len(texts))

    def _changed(self, count: int) -> None:
        if count:
            self._opened = None
        super()._changed(count)

    def _arrays(self) -> Mapping[str, NDArray[Any]]:
        return {
            "counts": np.array([len(vectors) for vectors in self._by_text.values()], np.int64),
            "vectors": self._joined(self._by_text.values()),
        }

    def _joined(self, vectors: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate([np.empty((0, self.encoder.encoder.dimension), np.float32), *vectors])

    @classmethod
    def open(cls, folder: Path, encoder: WindowEncoder) -> StoredWindows:
        """Read the windows in a folder; large files are mapped into memory.

        Raises:
            StoreError: if they are missing or damaged, or another model or other settings made them.
        """
        made = cls(encoder)
        arrays = made._files.read(folder)
        keys, counts, vectors = arrays["keys"], arrays["counts"], arrays["vectors"]
        consistent = (
            keys.shape[1] == KEY_BYTES
            and len(counts) == len(keys)
            and bool((counts >= 0).all())
            and vectors.shape == (counts.sum(), encoder.encoder.dimension)
            and bool(np.isfinite(vectors).all())
        )
        if not consistent:
            raise _DAMAGED.because(folder / "vectors.npy", "is damaged (it does not fit the other files)")
        made.folder, made._opened = folder, vectors
        ends, none = np.cumsum(counts).tolist(), vectors[:0]
        spans = zip(keys, [0, *ends], ends, strict=False)
        made._by_text = {key.tobytes().hex(): vectors[start:end] if end > start else none for key, start, end in spans}
        return made


def _files(encoder: WindowEncoder) -> VectorFiles:
    return VectorFiles(
        kind=KIND,
        arrays=_ARRAYS,
        fingerprint=encoder.fingerprint,
        dimension=encoder.encoder.dimension,
        absent=("windows of long texts", "build the index again"),
        of_other=(
            f"were made by another model or other settings than those of {encoder.encoder.name!r:.200}; build the "
            "index again"
        ),
        damaged=_DAMAGED,
        mapped_from=_MAPPED_FROM,
    )
