"""Which files of an output folder this package wrote: `.ace-finetune.json` in it lists them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from llama_index_ace_finetune.utils.atomic import is_temporary, write_json
from llama_index_ace_finetune.utils.open_file import read_bytes
from llama_index_ace_finetune.utils.read_json import parse_json

MARK: Final = ".ace-finetune.json"
_WRITER: Final = "llama-index-ace-finetune"
_LARGEST: Final = 64 * 2**20
_LOCK = re.compile(r"\..+\.(new|work|training)\.lock", re.DOTALL)
_HIDDEN = re.compile(r"\..+\.(new|old|work)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Written:
    """The content of a mark.

    Attributes:
        kind: of the output, such as "run", "model" or "index".
        name: of the folder when it was written; a copy under another name inside another output belongs to the user.
        paths: files and empty folders that were written, relative to the folder.
        grows: subfolders whose later files belong to the output too.
    """

    kind: str
    name: str
    paths: frozenset[str]
    grows: tuple[str, ...]


def read_mark(folder: Path) -> Written | None:
    """Return the mark of a folder; None if it has no readable mark."""
    file = folder / MARK
    try:
        content: Any = parse_json(read_bytes(file, limit=_LARGEST).decode("utf-8"))
        if content["writer"] != _WRITER:
            return None
        lists = [content["paths"], content["grows"]]
        if not all(isinstance(found, list) and all(isinstance(path, str) for path in found) for found in lists):
            return None
        return Written(str(content["kind"]), str(content["name"]), frozenset(lists[0]), tuple(lists[1]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_mark(folder: Path, *, kind: str, name: str, grows: Sequence[str] = (), empty: bool = False) -> None:
    """Record the files of a folder as written by this package; with `empty` only the folder."""
    paths = [] if empty else sorted(_entries(folder, PurePosixPath()))
    write_json(
        folder / MARK,
        {"format_version": 1, "writer": _WRITER, "kind": kind, "name": name, "paths": paths, "grows": list(grows)},
    )


def is_blank(folder: Path) -> bool:
    """Whether a folder is empty, except for the temporary file of a mark that a killed process was writing."""
    return all(is_temporary(path.name) for path in folder.iterdir())


def _entries(folder: Path, relative: PurePosixPath) -> Iterator[str]:
    """Yield files and empty folders, except those of inner outputs with a mark."""
    for entry in os.scandir(folder):
        path = relative / entry.name
        if not entry.is_dir(follow_symlinks=False):
            if entry.name != MARK:
                yield str(path)
        elif relative == PurePosixPath() and _has_own_mark(Path(entry.path)):
            continue
        elif not any(os.scandir(entry.path)):
            yield str(path)
        else:
            yield from _entries(Path(entry.path), path)


def _has_own_mark(folder: Path) -> bool:
    mark = read_mark(folder)
    return mark is not None and mark.name == folder.name


def added_by_user(folder: Path) -> list[PurePosixPath]:
    """Return files and empty folders, relative to the folder, that this package did not write."""
    mark = read_mark(folder)
    return sorted(_added(folder, PurePosixPath(), mark) if mark else map(PurePosixPath, _entries(folder, _TOP)))


_TOP = PurePosixPath()


def _added(folder: Path, relative: PurePosixPath, mark: Written) -> Iterator[PurePosixPath]:
    entries = list(os.scandir(folder))
    if not entries and str(relative) not in mark.paths and relative != _TOP:
        yield relative
    for entry in entries:
        path, inner = relative / entry.name, Path(entry.path)
        if str(path) in mark.grows or _is_leftover(inner):
            continue
        if not entry.is_dir(follow_symlinks=False):
            if str(path) not in mark.paths and path != PurePosixPath(MARK):
                yield path
        elif relative == _TOP and _has_own_mark(inner):
            yield from (path / found for found in added_by_user(inner))
        else:
            yield from _added(inner, path, mark)


def _is_leftover(path: Path) -> bool:
    """Whether it is a lock, or a temporary file or folder, that a killed process of this package left."""
    if path.is_dir():
        return _HIDDEN.fullmatch(path.name) is not None and read_mark(path) is not None
    return is_temporary(path.name) or (_LOCK.fullmatch(path.name) is not None and not path.stat().st_size)


def remove_marked(folder: Path, mark: str = MARK) -> None:
    """Delete a folder with its mark last, so that a kill in between leaves a folder that is still recognised."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != mark:
            path.unlink()
    (folder / mark).unlink(missing_ok=True)
    folder.rmdir()
