"""StoredKnownQueries: the vectors of known queries on disk, beside an index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import NotRequired, TypedDict

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_array import dtypes, read_array_file
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.validation import checked

_VERSION: Final = 1
_META, _VECTORS = "known_queries.json", "vectors.npy"
_REFUSAL: Final = Refusal("The known queries", "build the index again", StoreError)


class _Meta(TypedDict):
    format_version: int
    fingerprint: str
    memories: list[str]
    texts: NotRequired[list[str]]


@dataclass(frozen=True, eq=False)
class StoredKnownQueries:
    """Vectors of known queries and the memories that they are about.

    Attributes:
        fingerprint: of the model that made the vectors.
        vectors: float32 [r, d] of unit length.
        memories: per vector, the `text_hash` of its memory: a memory that is deleted or gets another text has no known
            queries any more, and memories with equal texts share theirs.
        texts: per vector, the text of the query, if BM25 reads them; else empty, and no query is in the files.
    """

    fingerprint: str
    vectors: NDArray[np.float32]
    memories: tuple[str, ...]
    texts: tuple[str, ...] = ()

    def texts_of_memories(self) -> dict[str, list[str]]:
        """Return the known queries of each memory, by the `text_hash` of its text."""
        found: dict[str, list[str]] = {}
        for memory, text in zip(self.memories, self.texts, strict=False):
            found.setdefault(memory, []).append(text)
        return found

    def save(self, folder: Path) -> None:
        """Write them into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / _VECTORS, self.vectors, allow_pickle=False)
        meta: _Meta = {"format_version": _VERSION, "fingerprint": self.fingerprint, "memories": list(self.memories)}
        if self.texts:
            meta["texts"] = list(self.texts)
        write_json(folder / _META, meta)

    @classmethod
    def load(cls, folder: Path) -> StoredKnownQueries:
        """Read what `save` wrote.

        Raises:
            StoreError: if the folder is missing, damaged or of another version.
        """
        file = folder / _META
        meta = checked(read_json_object(file, _REFUSAL), _Meta, file, _REFUSAL)
        if meta["format_version"] != _VERSION:
            raise _REFUSAL.because(file, f"have version {meta['format_version']}, not {_VERSION}")
        vectors = read_array_file(folder / _VECTORS, _REFUSAL, dtypes=dtypes(np.float32), dimensions=2)
        if len(vectors) != len(meta["memories"]) or not np.isfinite(vectors).all():
            raise _REFUSAL.because(folder / _VECTORS, "do not fit the list of their memories, or are not finite")
        texts = tuple(meta.get("texts", ()))
        if texts and len(texts) != len(vectors):
            raise _REFUSAL.because(file, "do not fit the list of their texts")
        return cls(meta["fingerprint"], vectors, tuple(meta["memories"]), texts)
