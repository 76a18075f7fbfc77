"""piped: the pipe of a shell's `<(command)` as a file that can be read more than once."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llama_index_ace_finetune.datasets.bounded_stream import BoundedStream
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.file_errors import UnusableFileError
from llama_index_ace_finetune.utils.open_file import is_descriptor
from llama_index_ace_finetune.utils.read_json import parse_json


@contextlib.contextmanager
def piped(path: Path) -> Iterator[Path]:
    """Yield the path itself, or for a descriptor of this process a copy of its content that is deleted after the block.

    The copy's suffix is guessed from the content: Parquet, JSON, JSON Lines, TSV or CSV.

    Raises:
        DatasetError: for a descriptor that cannot be read.
    """
    if not is_descriptor(path):
        yield path
        return
    try:
        with BoundedStream(path) as stream:
            content = stream.read()
    except (UnusableFileError, OSError) as error:
        raise DatasetError(f"{path}: this {error}; give a file.") from error
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, f"{path.name}{_suffix(content)}")
        copy.write_bytes(content)
        yield copy


def _suffix(content: bytes) -> str:
    if content.startswith(b"PAR1"):
        return ".parquet"
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    first, _, rest = start.partition(b"\n")
    if start.startswith(b"{") and rest.strip() and _is_json(first):
        return ".jsonl"
    if start.startswith((b"{", b"[")):
        return ".json"
    return ".tsv" if b"\t" in first else ".csv"


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line.decode("utf-8"))
    except ValueError:
        return False
    return True
