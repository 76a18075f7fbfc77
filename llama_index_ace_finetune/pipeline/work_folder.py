"""A folder beside the output, from which an interrupted command can be resumed."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.disk_full import disk_full_is_an_error
from llama_index_ace_finetune.utils.file_lock import locked
from llama_index_ace_finetune.utils.new_folder import require_writable
from llama_index_ace_finetune.utils.open_file import read_bytes
from llama_index_ace_finetune.utils.ownership import is_blank, remove_marked
from llama_index_ace_finetune.utils.read_json import parse_json

WORK_MARK = "work.json"
_LARGEST_MARK = 4096


@contextlib.contextmanager
def work_folder(
    output: Path, *, inputs: Mapping[str, Any], resume: bool, events: PipelineEvents | None = None
) -> Iterator[Path]:
    """Give the work folder of `output`, `.NAME.work` beside it.

    It is removed when the block succeeds, or leaves nothing in it.

    Args:
        output: the file or folder that is written.
        inputs: all that the result depends on, as plain values.
        resume: keep the results of an interrupted command with the same inputs; otherwise they are deleted.
        events: receives a warning if the block fails and its results are kept.

    Raises:
        AceFinetuneError: if another process is writing `output`, the interrupted command had other inputs, or nothing
            can be written there.
        OutputExistsError: if a folder of that name is not a work folder.
    """
    require_writable(output)
    folder = output.parent / f".{output.name}.work"
    lock = folder.with_name(f"{folder.name}.lock")
    with locked(lock, output=output), disk_full_is_an_error(output):
        key = _key(inputs)
        left = _left_by(folder)
        if folder.exists() and (left is None or not resume):
            _discard(folder)
        elif left not in (None, key):
            raise AceFinetuneError(
                f"The interrupted command for {str(output)!r} had other data or settings; resume with the same ones, "
                "or leave out --resume."
            )
        remove_discarded(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / WORK_MARK, {"inputs": key})
        try:
            yield folder
        except BaseException:
            if any(path.name != WORK_MARK for path in folder.iterdir()):
                (events or PipelineEvents()).on_warning(
                    "What is done so far is kept; repeat the command with --resume to resume."
                )
            else:
                _discard(folder)
            raise
        _discard(folder)


def _key(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def _left_by(folder: Path) -> str | None:
    """Return the inputs of the command that left a work folder; None where there is nothing to resume.

    Raises:
        OutputExistsError: if it is not a work folder, or its mark is damaged.
    """
    mark = folder / WORK_MARK
    if not folder.exists() or (folder.is_dir() and is_blank(folder)):
        return None
    try:
        return str(parse_json(read_bytes(mark, limit=_LARGEST_MARK).decode("utf-8"))["inputs"])
    except (ValueError, TypeError, KeyError) as error:
        raise OutputExistsError(
            f"{str(folder)!r} is needed for the work and holds something else, or its {WORK_MARK} is damaged; move it "
            "away."
        ) from error


def is_work_folder(folder: Path) -> bool:
    """Whether `work_folder` created it: it is empty, or its mark can be read."""
    try:
        _left_by(folder)
    except OutputExistsError:
        return False
    return True


def _discard(folder: Path) -> None:
    """Delete a work folder; renamed first, so that nothing resumes from a part of it."""
    remove_discarded(folder)
    doomed = folder.rename(_discarded(folder))
    remove_marked(doomed, WORK_MARK)


def remove_discarded(folder: Path) -> None:
    """Delete what a killed process was deleting of the work folder `folder`."""
    doomed = _discarded(folder)
    if doomed.is_dir() and ((doomed / WORK_MARK).is_file() or is_blank(doomed)):
        remove_marked(doomed, WORK_MARK)


def _discarded(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def tidy_work(output: Path, *, inputs: Mapping[str, Any]) -> None:
    """Delete the work folder of a command with these inputs that was killed after `output` was whole."""
    folder = output.parent / f".{output.name}.work"
    lock = folder.with_name(f"{folder.name}.lock")
    if not any(path.exists() for path in (folder, _discarded(folder), lock)):
        return
    with contextlib.suppress(AceFinetuneError), locked(lock, output=output):
        remove_discarded(folder)
        if folder.exists() and _left_by(folder) in (None, _key(inputs)):
            _discard(folder)
