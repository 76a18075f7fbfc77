"""open_lines: a file of lines that are appended one by one, so that a kill loses at most the line being written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llama_index_ace_finetune.utils.atomic import require_regular
from llama_index_ace_finetune.utils.file_lock import locked


@contextmanager
def open_lines(path: Path) -> Iterator[tuple[BinaryIO, list[bytes]]]:
    """Open or create the file to append to it; give it with its whole lines.

    A line that a kill left incomplete is dropped once the block has accepted the others, at the first append.

    Raises:
        AceFinetuneError: if another process has it open, or the path is not a file.
    """
    require_regular(path)
    with locked(path.with_name(f".{path.name}.lock"), output=path), path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        yield file, content[: content.rfind(b"\n") + 1].splitlines()


def append_line(file: BinaryIO, line: bytes) -> None:
    """Write a line at once, after the last whole one."""
    file.seek(0, 2)
    end = file.tell()
    if end:
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
    file.write(line + b"\n")
    file.flush()
