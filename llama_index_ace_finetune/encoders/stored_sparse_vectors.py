"""StoredSparseVectors: sparse vectors of texts, by text, and the folder that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from llama_index_ace_finetune.encoders.sparse_encoder import SparseTextEncoder
from llama_index_ace_finetune.encoders.stored_vectors import StoredVectors
from llama_index_ace_finetune.encoders.vector_files import VectorFiles
from llama_index_ace_finetune.errors import StoreError, quoted
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_array import dtypes
from llama_index_ace_finetune.utils.text_key import KEY_BYTES, text_key

MAX_ENCODED: Final = 256
"""Texts without a vector that are encoded at once; more have to be stored by `add`."""
KIND: Final = "sparse vectors"
_DAMAGED: Final = Refusal("The file", "build the sparse vectors again", StoreError)
_ARRAYS: Final = {
    "keys": (dtypes(np.uint8), 2), "offsets": (dtypes(np.int64), 1),
    "columns": (dtypes(np.int32), 1), "weights": (dtypes(np.float32), 1),
}  # fmt: skip


class StoredSparseVectors(StoredVectors[int]):
    """Document vectors of a sparse encoder, by text: a changed text has another key, and equal texts share a vector.

    It makes the vectors of a `SparseIndex`. A text without a vector is encoded, at most `MAX_ENCODED` at once.

    A folder that they were opened from is written again after `MAX_CHANGES` changes and by `flush`. After a kill before
    that, fewer texts than a search may encode have to be encoded again. If several processes write, the last one wins.
    """

    def __init__(self, encoder: SparseTextEncoder) -> None:
        super().__init__(_files(encoder))
        self.encoder = encoder
        # `_by_text`: the row of each text.
        self._vectors = csr_array((0, encoder.dimension), dtype=np.float32)

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
            return csr_array(self._vectors[[self._by_text[text_key(text)] for text in texts]])

    def add(self, texts: Iterable[str], *, progress: Callable[[int], None] | None = None) -> int:
        """Encode the texts without a vector, however many; return their number."""
        with self._lock:
            missing = self.missing(texts)
            self._add(missing, progress)
        return len(missing)

    def _add(self, missing: Sequence[str], progress: Callable[[int], None] | None = None) -> None:
        if not missing:
            return
        found = self.encoder.encode_documents(missing, progress=progress)
        first = self._vectors.shape[0]
        self._vectors = csr_array(vstack([self._vectors, found], format="csr"))
        self._by_text.update((text_key(text), first + place) for place, text in enumerate(missing))
        self._changed(len(missing))

    def _arrays(self) -> Mapping[str, NDArray[Any]]:
        self._vectors = csr_array(self._vectors[list(self._by_text.values())])  # without those of deleted texts
        self._by_text = {key: row for row, key in enumerate(self._by_text)}
        return {
            "offsets": self._vectors.indptr.astype(np.int64),
            "columns": self._vectors.indices.astype(np.int32),
            "weights": self._vectors.data,
        }

    @classmethod
    def open(cls, folder: Path, encoder: SparseTextEncoder) -> StoredSparseVectors:
        """Read the vectors in a folder.

        Raises:
            StoreError: if they are missing or damaged, or another encoder made them.
        """
        made = cls(encoder)
        arrays = made._files.read(folder)
        keys, offsets, columns = arrays["keys"], arrays["offsets"], arrays["columns"]
        consistent = (
            keys.shape[1] == KEY_BYTES
            and len(offsets) == len(keys) + 1
            and (offsets[0], offsets[-1]) == (0, len(columns))
            and bool((np.diff(offsets) >= 0).all())
            and len(arrays["weights"]) == len(columns)
            and bool(((columns >= 0) & (columns < made.dimension)).all())
            and bool(np.isfinite(arrays["weights"]).all())
        )
        if not consistent:
            raise _DAMAGED.because(folder / "columns.npy", "is damaged (it does not fit the other files)")
        made.folder = folder
        made._by_text = {key.tobytes().hex(): row for row, key in enumerate(keys)}
        made._vectors = csr_array((arrays["weights"], columns, offsets), shape=(len(keys), made.dimension))
        return made


def _files(encoder: SparseTextEncoder) -> VectorFiles:
    return VectorFiles(
        kind=KIND,
        arrays=_ARRAYS,
        fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        absent=("sparse vectors", "build them first"),
        of_other=(
            f"are not those of the encoder {quoted(encoder.name, 200)}; build them again, or give the encoder that "
            "made them"
        ),
        damaged=_DAMAGED,
    )
