"""Atomic output folders, which replace only files that this package wrote."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError
from llama_index_ace_finetune.utils.atomic import sync_folder, sync_tree, try_to_write
from llama_index_ace_finetune.utils.disk_full import disk_full_is_an_error
from llama_index_ace_finetune.utils.file_lock import locked
from llama_index_ace_finetune.utils.ownership import added_by_user, is_blank, read_mark, remove_marked, write_mark


@contextlib.contextmanager
def new_folder(
    path: Path, *, kind: str, grows: Sequence[str] = (), derived: bool = False, wait: bool = False
) -> Iterator[Path]:
    """Yield a folder to fill; it replaces `path` if the block succeeds, else it is removed.

    It is `.NAME.new` beside `path`, and is renamed in one step after everything is flushed to disk. Files in the
    replaced output that this package did not write are kept: they are moved to the new folder.

    Args:
        path: of the folder.
        kind: of the output, such as "model"; only an output of the same kind is replaced.
        grows: relative paths of subfolders whose later files belong to the output too.
        derived: replace `path` whatever it holds, since it is inside an output of this package.
        wait: wait for another writer of the same folder instead of raising.

    Raises:
        OutputExistsError: if `path` holds something that this package did not write.
        AceFinetuneError: if another process is writing it, or the disk is full.
    """
    require_writable(path)
    path = _target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(_lock(path), output=path, wait=wait), disk_full_is_an_error(path):
        _tidy(path)
        aside = _aside(path)
        if not derived:
            require_replaceable(path, kind=kind)
        elif aside.is_dir():
            shutil.rmtree(aside)
        aside.mkdir()
        try:
            write_mark(aside, kind=kind, name=path.name, empty=True)
            yield aside
            _place(aside, path, kind=kind, grows=grows, derived=derived)
        finally:
            if aside.exists():
                with contextlib.suppress(OSError):
                    remove_marked(aside)


def place_folder(folder: Path, path: Path, *, kind: str, grows: Sequence[str] = ()) -> None:
    """Move a finished folder on the same disk to `path`, as `new_folder` does at its end.

    Raises:
        OutputExistsError: if `path` holds something that this package did not write.
        AceFinetuneError: if another process is writing there.
    """
    require_writable(path)
    path = _target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(_lock(path), output=path), disk_full_is_an_error(path):
        _tidy(path)
        require_replaceable(path, kind=kind)
        _place(folder, path, kind=kind, grows=grows)


def require_replaceable(path: Path, *, kind: str) -> None:
    """Check, before any work, that an output folder can be written.

    Raises:
        OutputExistsError: if `path` is a file, or holds something that this package did not write.
        AceFinetuneError: if the folder is not writable.
    """
    require_writable(path)
    if path.exists() and not path.is_dir():
        raise OutputExistsError(f"The output {str(path)!r} is a file; give a folder.")
    if path.is_dir() and any(path.iterdir()):
        mark = read_mark(path)
        if mark is None or mark.kind != kind:
            raise OutputExistsError(
                f"The output folder {str(path)!r} holds something that this package did not write ({kind} folder), "
                "or wrote before it kept a list of its files; move it away, or give another folder."
            )
        for found in added_by_user(path):
            # Part of an embedded Qdrant, whose meta.json this package wrote.
            if "collection" in found.parts[:-1] and (path / _before(found, "collection") / "meta.json").is_file():
                raise OutputExistsError(
                    f"The output folder {str(path)!r} holds a collection that this package did not write there "
                    f"({found}), and which cannot be moved over; give another folder."
                )
    if path.is_dir() and path.is_mount():
        raise AceFinetuneError(f"The output folder {str(path)!r} is a mount point; give a folder inside of it.")
    aside = _aside(_target(path))
    if aside.is_dir() and read_mark(aside) is None and not is_blank(aside):
        raise OutputExistsError(f"{str(aside)!r} is needed as temporary folder and holds other files; move it away.")


def require_writable(path: Path) -> None:
    """Check that `path`, a file or a folder, and its missing parents can be created.

    Raises:
        AceFinetuneError: if it cannot.
    """
    parent = path.parent
    try:
        parent = _target(path).parent
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        if not parent.is_dir():
            raise AceFinetuneError(f"The output {str(path)!r} cannot be written: {str(parent)!r} is not a folder.")
        try_to_write(parent / path.name)
        path.exists()
    except OSError as error:
        raise AceFinetuneError(
            f"The output {str(path)!r} cannot be written ({error.strerror or error}: {str(parent)!r}); give another "
            "path, or check its permissions."
        ) from error


def tidy(path: Path) -> None:
    """Complete or roll back what a killed writer of the folder `path` left; do nothing while a writer runs."""
    path = _target(path)
    if not any(found.is_dir() for found in (_aside(path), _retired(path))):
        if _lock(path).exists():
            with contextlib.suppress(AceFinetuneError, OSError), locked(_lock(path), output=path):
                pass
        return
    with contextlib.suppress(AceFinetuneError), locked(_lock(path), output=path):
        _tidy(path)


def _tidy(path: Path) -> None:
    retired = _retired(path)
    if retired.is_dir() and read_mark(retired) and not path.exists():
        retired.rename(path)  # killed between the two renames: restore the previous output
        sync_folder(path.parent)
    for found in (_aside(path), retired):
        if found.is_dir() and (read_mark(found) or is_blank(found)):
            for left in found.iterdir() if not read_mark(found) else ():
                left.unlink()
            remove_marked(found)


def _place(aside: Path, path: Path, *, kind: str, grows: Sequence[str], derived: bool = False) -> None:
    write_mark(aside, kind=kind, name=path.name, grows=grows)
    if path.is_dir() and not derived:
        for found in added_by_user(path):
            _keep(path / found, aside / found)
    sync_tree(aside)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    if not path.exists():
        aside.rename(path)
    elif not _exchange(aside, path):
        path.rename(_retired(path))
        aside.rename(path)
    sync_folder(path.parent)
    for old in (aside, _retired(path)):
        if old.exists():
            remove_marked(old)


def _keep(source: Path, target: Path) -> None:
    """Link or copy a file or an empty folder of the user into the new folder, before the old one is deleted."""
    if os.path.lexists(target):
        target = target.with_name(f"{target.name}.kept")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and not source.is_symlink():
        target.mkdir(exist_ok=True)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a file system without links
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders atomically; False if the system cannot."""
    names = os.fsencode(first), os.fsencode(second)
    try:
        system = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return bool(system.renamex_np(*names, ctypes.c_uint(2)) == 0)
        return bool(system.renameat2(-100, names[0], -100, names[1], ctypes.c_uint(2)) == 0)
    except (AttributeError, OSError, TypeError):
        return False


def _target(path: Path) -> Path:
    """The folder behind a symbolic link, so that the link stays."""
    return path.resolve() if path.is_symlink() else path.absolute()


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _retired(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.new.lock")


def _before(path: PurePosixPath, name: str) -> PurePosixPath:
    return PurePosixPath(*path.parts[: path.parts.index(name)])
