"""StoredVectors: what an encoder made of texts, by text, in memory and in a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.vector_files import VectorFiles
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.text_key import KEY_BYTES, text_key

MAX_CHANGES: Final = 256
"""Changes after which the folder is written again: a search may encode as many texts whose vectors a kill lost."""
_Entry = TypeVar("_Entry")


class StoredVectors(ABC, Generic[_Entry]):
    """Vectors by text: a changed text has another key, and equal texts share theirs.

    A folder that they were opened from is written again after `MAX_CHANGES` changes and by `flush`. If several
    processes write, the last one wins.

    Args:
        files: of the folder.
    """

    def __init__(self, files: VectorFiles) -> None:
        self.folder: Path | None = None
        self._files = files
        self._by_text: dict[str, _Entry] = {}  # by `text_key`
        self._changes = 0
        self._lock = fork_safe_lock()

    def __len__(self) -> int:
        return len(self._by_text)

    @property
    def keys(self) -> list[str]:
        """The `text_key` of each text."""
        return list(self._by_text)

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Return the distinct texts that were not encoded yet."""
        return [text for text in dict.fromkeys(texts) if text_key(text) not in self._by_text]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete what is stored of texts, by their `text_key`; unknown ones are ignored."""
        with self._lock:
            known = [key for key in dict.fromkeys(keys) if key in self._by_text]
            for key in known:
                del self._by_text[key]
            self._changed(len(known))

    def flush(self) -> None:
        """Write changes to the folder that the vectors were opened from.

        Raises:
            StoreError: if the folder is missing or damaged, or holds the vectors of another encoder now.
        """
        with self._lock:
            if self.folder is not None and self._changes:
                self._rewrite(self.folder)

    def save(self, folder: Path) -> None:
        """Write all vectors to a folder, which replaces one there as a whole.

        Raises:
            OutputExistsError: if the folder holds something else.
        """
        with self._lock:
            self._write(folder)

    @abstractmethod
    def _arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the arrays to write besides the keys, with the texts in the order of `keys`."""

    def _changed(self, count: int) -> None:
        self._changes += count
        if self.folder is not None and self._changes >= MAX_CHANGES:
            self._rewrite(self.folder)

    def _rewrite(self, folder: Path) -> None:
        self._files.require(folder)
        self._write(folder)

    def _write(self, folder: Path) -> None:
        keys = np.frombuffer(bytes.fromhex("".join(self._by_text)), np.uint8).reshape(-1, KEY_BYTES)
        self._files.write(folder, {"keys": keys, **self._arrays()})
        self._changes = 0
