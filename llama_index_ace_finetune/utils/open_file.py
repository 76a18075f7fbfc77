"""Open regular files only: no folder, pipe, socket or device."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, Final

from llama_index_ace_finetune.utils.file_errors import UnusableFileError

_KINDS: Final = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a named pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)
# Paths of a shell's `<(command)` and of `command | ... /dev/stdin`.
_DESCRIPTOR: Final = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/(self|\d+)/fd/\d+")


def open_file(path: Path, *, pipes: bool = False) -> BinaryIO:
    """Open a regular file for reading; never blocks, as opening a named pipe would.

    Args:
        path: of the file; symbolic links are followed.
        pipes: also accept the pipe of a shell's process substitution, which can be read only once.

    Raises:
        UnusableFileError: if it is missing, not readable, or not a regular file.
    """
    # Opening a named pipe would wait for a writer; opening a terminal could make it the controlling one.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise UnusableFileError("does not exist") from error
    except (OSError, ValueError) as error:  # a path with a NUL character is a ValueError
        raise UnusableFileError(_reason(path, error)) from error
    try:
        mode = os.fstat(descriptor).st_mode
        piped = pipes and stat.S_ISFIFO(mode) and is_descriptor(path)
        if not stat.S_ISREG(mode) and not piped:
            raise UnusableFileError(_kind(mode))
        if hasattr(os, "set_blocking"):
            os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def is_descriptor(path: Path) -> bool:
    """Whether a path names an open descriptor of this process, as a shell's `<(command)` does."""
    return _DESCRIPTOR.fullmatch(str(path)) is not None


def read_bytes(path: Path, *, limit: int, pipes: bool = False) -> bytes:
    """Return a whole file of at most `limit` bytes; raises UnusableFileError."""
    with open_file(path, pipes=pipes) as handle:
        state = os.fstat(handle.fileno())
        if state.st_size > limit:
            raise UnusableFileError(f"is too large ({state.st_size:,} bytes, at most {limit:,})")
        try:
            # `read` allocates as many bytes as it may return.
            content = handle.read(1 + (state.st_size if stat.S_ISREG(state.st_mode) else limit))
        except OSError as error:
            raise UnusableFileError(_reason(path, error)) from error
    if len(content) > limit:
        raise UnusableFileError(f"is too large (over {limit:,} bytes)")
    return content


def _kind(mode: int) -> str:
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "is not a regular file")


def _reason(path: Path, error: OSError | ValueError) -> str:
    try:
        kind = _kind(path.stat().st_mode)
        if not path.is_file():
            return kind  # opening a socket fails with the misleading "No such device or address"
    except (OSError, ValueError):
        pass
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"
