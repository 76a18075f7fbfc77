"""File locks: one writer at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from llama_index_ace_finetune.errors import AceFinetuneError


@contextlib.contextmanager
def locked(file: Path, *, output: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock `file` while `output` is written, and remove it afterwards; its folder is created.

    The system releases it when the process ends, also if it is killed.

    Args:
        file: the lock file.
        output: the path that errors name.
        wait: wait for the lock instead of raising.

    Raises:
        AceFinetuneError: if another process, or another thread, holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise AceFinetuneError(
            f"Another process is writing {str(output)!r}; wait for it, or give another output."
        ) from None
    try:
        yield
    finally:
        # Remove it while it is held: afterwards another process may hold it.
        with contextlib.suppress(OSError):
            file.unlink()
        lock.release()


def is_held(file: Path) -> bool:
    """Whether a process holds the lock `file`."""
    if not file.exists():
        return False
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
