"""Remove what killed commands left."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.pipeline.work_folder import WORK_MARK, is_work_folder
from llama_index_ace_finetune.utils.atomic import is_temporary, remove_abandoned_file
from llama_index_ace_finetune.utils.file_lock import locked
from llama_index_ace_finetune.utils.new_folder import tidy
from llama_index_ace_finetune.utils.ownership import is_blank, read_mark, remove_marked

_HIDDEN: Final = re.compile(r"\.(?P<name>.+?)\.(?P<what>new|old|work|work\.old|training)(?P<lock>\.lock)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Removed:
    """A file or folder that was removed, and its size in bytes."""

    path: Path
    bytes: int


def remove_leftovers(folder: str | Path) -> list[Removed]:
    """Remove below a folder what killed commands of this package left, and return it.

    These are folders of unfinished outputs, work folders (from which `resume` would continue) and temporary files.
    What another process is writing, and what this package did not write, is kept.

    Raises:
        AceFinetuneError: if `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AceFinetuneError(f"There is no folder {str(folder)!r} to clean; give one that holds outputs.")
    removed = []
    for parent, names, files in os.walk(folder):
        for name in sorted([*names, *files]):
            path = Path(parent, name)
            size = _remove(path) if name.startswith(".") else None
            if size is not None:
                removed.append(Removed(path, size))
        names[:] = [name for name in names if not name.startswith(".")]
    return removed


def _remove(path: Path) -> int | None:
    """Remove one leftover; return its size in bytes, None if it was kept or is none."""
    if is_temporary(path.name) and path.is_file() and not path.is_symlink():
        size = path.stat().st_size
        remove_abandoned_file(path)
        return None if path.exists() else size
    found = _HIDDEN.fullmatch(path.name)
    if found is None or path.is_symlink():
        return None
    output = path.with_name(found["name"])
    if found["lock"]:
        return _remove_lock(path, output)
    size = sum(file.stat().st_size for file in _files(path)) if path.is_dir() else 0
    if found["what"] in ("new", "old"):
        if not path.is_dir() or not (is_blank(path) or read_mark(path)):
            return None
        tidy(output)
    elif found["what"].startswith("work") and path.is_dir() and is_work_folder(path):
        with contextlib.suppress(AceFinetuneError), locked(_lock(output), output=output):
            remove_marked(path, WORK_MARK)
    return None if path.exists() else size


def _remove_lock(path: Path, output: Path) -> int | None:
    """Remove the empty lock of an output that no process holds."""
    if not path.is_file() or path.stat().st_size:
        return None
    with contextlib.suppress(AceFinetuneError), locked(path, output=output):
        pass
    return None if path.exists() else 0


def _lock(output: Path) -> Path:
    return output.with_name(f".{output.name}.work.lock")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
