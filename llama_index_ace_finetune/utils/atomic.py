"""Files that are either whole or absent, also after a kill or a power cut."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from llama_index_ace_finetune.errors import OutputExistsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

if sys.platform != "win32":  # on Windows, files of a killed process stay
    import fcntl

_TEMPORARY: Final = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write; it replaces `path` if the block succeeds, else it is removed.

    Parents are created. Temporary files that killed processes left of the same file are removed.

    Raises:
        OutputExistsError: if `path` is a folder, a device or a pipe.
    """
    require_regular(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_files(path)
    aside, handle = _open_aside(path)
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
            if sys.platform == "win32":
                handle.close()
            aside.replace(path)  # while the lock is held, so that no process removes the file as abandoned
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all; parents are created."""
    content = text.encode("utf-8")
    with new_file(path) as handle:
        handle.write(content)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON; NaN is refused, since other readers would."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def require_regular(path: Path) -> None:
    """Raise OutputExistsError if `path` exists and is not a regular file, since a rename would replace it."""
    if path.is_dir():
        raise OutputExistsError(f"The output {str(path)!r} is a directory; give the path of a file.")
    if path.exists() and not path.is_file():
        raise OutputExistsError(f"The output {str(path)!r} is a device or a pipe; give the path of a regular file.")


def try_to_write(path: Path) -> None:
    """Create a temporary file beside `path` and remove it; raises OSError if that is impossible."""
    _remove_abandoned_files(path)
    aside, handle = _open_aside(path)
    handle.close()
    aside.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether this is the name of a temporary file of `new_file`."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_abandoned_file(file: Path) -> int:
    """Remove a temporary file that no process holds; return its size in bytes, 0 if it is in use."""
    if sys.platform == "win32":
        return 0
    with contextlib.suppress(OSError), file.open("r+b") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(handle.fileno()).st_size
        file.unlink()
        return size
    return 0


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk (fsync)."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below a folder to disk (fsync)."""
    for path, _, names in os.walk(folder):
        for name in names:
            file = Path(path, name)
            if file.is_symlink() or not file.is_file():
                continue
            with file.open("rb" if os.name != "nt" else "r+b") as handle:
                os.fsync(handle.fileno())
        sync_folder(Path(path))


def _remove_abandoned_files(path: Path) -> None:
    """Remove temporary files that killed processes left of the same file."""
    for left in path.parent.iterdir():
        if (found := _TEMPORARY.fullmatch(left.name)) and found["name"] == path.name:
            remove_abandoned_file(left)


def _open_aside(path: Path) -> tuple[Path, BinaryIO]:
    """Return a new temporary file beside `path`, which is locked while it is open."""
    while True:
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        handle = aside.open("xb")
        if sys.platform != "win32":
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another writer is removing it as abandoned
                handle.close()
                continue
            except OSError:  # no locks on this file system, so no writer removes it either
                return aside, handle
            if not os.fstat(handle.fileno()).st_nlink:
                handle.close()
                continue
        return aside, handle


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; parents are created, and the same figure gives the same bytes."""
    with new_file(path) as handle:
        figure.savefig(handle, format="png", metadata={"Software": None})
