"""BoundedStream: the bytes of a data file, gzipped or not, up to a limit that depends on its size."""

from __future__ import annotations

import gzip
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.open_file import open_file

MAX_BYTES: Final = 8 * 2**30
_MAX_RATIO: Final = 100  # text compresses to about a tenth, repeated lines to a thousandth
_ALWAYS_ALLOWED_BYTES: Final = 4 * 2**20
_CHUNK: Final = 2**20


class BoundedStream:
    """A regular file, or the pipe of a shell's process substitution, opened once.

    A gzip file may unpack to 100 times its size, and always to 4 MB.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; raises UnusableFileError for anything else."""
        self._path = path
        self._handle = open_file(path, pipes=True)
        state = os.fstat(self._handle.fileno())
        self._stream: BinaryIO | gzip.GzipFile = self._handle
        self._left = MAX_BYTES
        if self._handle.peek(2)[:2] == b"\x1f\x8b":  # type: ignore[attr-defined]
            self._stream = gzip.GzipFile(fileobj=self._handle)
            if stat.S_ISREG(state.st_mode):
                self._left = max(_ALWAYS_ALLOWED_BYTES, _MAX_RATIO * state.st_size)

    def readline(self, limit: int) -> bytes:
        """Return the next line, of at most `limit` bytes; raises DatasetError for a file that unpacks to too much."""
        return self._counted(self._stream.readline(limit))

    def read(self) -> bytes:
        """Return all that is left; raises DatasetError for a file that unpacks to too much."""
        parts = []
        while part := self._counted(self._stream.read(_CHUNK)):
            parts.append(part)
        return b"".join(parts)

    def _counted(self, part: bytes) -> bytes:
        self._left -= len(part)
        if self._left < 0:
            what = "is too large" if self._stream is self._handle else "unpacks to far more than its size"
            raise DatasetError(f"{self._path}: the file {what}; give the data uncompressed, or in several files.")
        return part

    def __enter__(self) -> BoundedStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()
