"""A folder beside the output for what a broken-off command can go on from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.atomic import write_json
from llama_index_ace_finetune.commands.console import console
from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError
from llama_index_ace_finetune.locked import locked

_MARK = "work.json"


@contextlib.contextmanager
def work_folder(output: Path, *, inputs: Mapping[str, Any], resume: bool) -> Iterator[Path]:
    """Give the work folder of `output`, `.NAME.work` beside it.

    It is removed when the block ends well, or with nothing in it.

    Args:
        output: what the command writes.
        inputs: all that its result depends on, as plain values.
        resume: keep what an earlier command with the same inputs left there; else it is deleted.

    Raises:
        AceFinetuneError: if another process is writing `output`, or what is to be resumed had other inputs.
        OutputExistsError: if a folder of that name is not a work folder.
    """
    folder = output.parent / f".{output.name}.work"
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).is_file():
        raise OutputExistsError(f"{str(folder)!r} is needed for the work and holds something else; move it away.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder.with_suffix(".lock"), output=output):
            key = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
            mark = folder / _MARK
            if mark.is_file() and not resume:
                shutil.rmtree(folder)
            elif mark.is_file() and json.loads(mark.read_text(encoding="utf-8")).get("inputs") != key:
                raise AceFinetuneError(
                    f"What was broken off for {str(output)!r} had other data or settings; go on with the same ones, or "
                    "leave out --resume."
                )
            write_json(mark, {"inputs": key})
            try:
                yield folder
            except BaseException:
                if any(path != mark for path in folder.iterdir()):
                    console(stderr=True).print(
                        "What is done so far is kept; repeat the command with --resume to go on."
                    )
                    raise
                shutil.rmtree(folder)
                raise
            shutil.rmtree(folder)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
