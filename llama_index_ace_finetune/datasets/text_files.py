"""Read files as text, lines and JSON values, with errors that name the file and the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.bounded_stream import BoundedStream
from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.file_errors import UnusableFileError
from llama_index_ace_finetune.utils.read_json import RepeatedKeyError
from llama_index_ace_finetune.utils.read_json import parse_json as parse

MAX_LINE_BYTES = 16 * 2**20
"""A longer line means that the file is of another format."""

MAX_BLANK_LINES = 100_000
"""The limit in a row: a gzip file of a few bytes can hold millions."""


def iterate_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a UTF-8 file, gzipped or not.

    A byte order mark and CRLF ends are removed. Raises DatasetError for a file that cannot be read,
    is not UTF-8, has a line over `MAX_LINE_BYTES` or more than `MAX_BLANK_LINES` blank ones in a row.
    """
    with _open(path) as stream:
        number = blank = 0
        while True:
            line = _read_line(stream, path, number + 1)
            if not line:
                return
            number += 1
            blank = 0 if line.strip() else blank + 1
            if blank > MAX_BLANK_LINES:
                where = SourceLocation(str(path), number)
                raise DatasetError(f"{where}: more than {MAX_BLANK_LINES:,} blank lines in a row; remove them.")
            if number == 1:
                line = _without_byte_order_mark(line, path)
            yield number, _decode(line, path, number).rstrip("\r\n")


def read_text(path: Path) -> str:
    """Return a whole UTF-8 file, gzipped or not, without a byte order mark; raises DatasetError."""
    with _open(path) as stream:
        try:
            content = stream.read()
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(path, error) from error
    content = _without_byte_order_mark(content, path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content.count(b"\n", 0, error.start) + 1) from error


def parse_json(text: str, location: SourceLocation) -> Any:
    """Return the JSON value in `text`; raises DatasetError with line and column."""
    try:
        return parse(text, unique_keys=True)
    except RepeatedKeyError as error:
        line = text.count("\n", 0, max(0, text.rfind(json.dumps(error.key, ensure_ascii=False)))) + (location.line or 1)
        raise DatasetError(
            f"{SourceLocation(location.file, line)}: the key {error.key!r:.80} occurs twice in one object; remove one."
        ) from error
    except json.JSONDecodeError as error:
        line = location.line + error.lineno - 1 if location.line else error.lineno
        where = SourceLocation(location.file, line)
        raise DatasetError(f"{where}: invalid JSON at column {error.colno} ({error.msg}); correct the file.") from error
    except ValueError as error:  # nesting, or a number with dozens of digits
        raise DatasetError(f"{location}: the JSON cannot be read ({error}); correct it.") from error


def read_json(path: Path) -> Any:
    """Return the JSON value in a file; raises DatasetError."""
    text = read_text(path)
    if not text.strip():
        raise empty_file(path)
    return parse_json(text, SourceLocation(str(path)))


def iterate_json_lines(
    path: Path, left_out: Callable[[DatasetError, SourceLocation], None] | None = None
) -> Iterator[tuple[SourceLocation, dict[str, Any]]]:
    """Yield (place, record) for every line of a JSON Lines file that is not blank.

    A line that is not a JSON object is passed to `left_out`; without it, DatasetError is raised. A file that cannot
    be read always raises DatasetError.
    """
    file = str(path)
    for number, line in iterate_lines(path):
        if not line or line.isspace():
            continue
        location = SourceLocation(file, number)
        try:
            record = parse_json(line, location)
            if not isinstance(record, dict):
                raise DatasetError(
                    f"{location}: expected a JSON object, found {json_type(record)}; write one object a line."
                )
        except DatasetError as error:
            if left_out is None:
                raise
            left_out(error, location)
            continue
        yield location, record


def empty_file(path: Path) -> DatasetError:
    """Return the error of a file without data."""
    return DatasetError(f"{path}: the file is empty; give a file with data in it.")


def unusable_file(path: Path, error: UnusableFileError) -> DatasetError:
    """Return the error of something that is not a regular file, or must not be read."""
    return DatasetError(f"{path}: this {error}; give the file itself, and see that it may be read.")


def json_type(value: object) -> str:
    """Return the JSON name of a value's type."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _open(path: Path) -> BoundedStream:
    try:
        return BoundedStream(path)
    except UnusableFileError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise _unreadable(path, error.__cause__) from error
        raise unusable_file(path, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_line(stream: BoundedStream, path: Path, number: int) -> bytes:
    try:
        line = stream.readline(MAX_LINE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error, number) from error
    if len(line) > MAX_LINE_BYTES:
        limit = MAX_LINE_BYTES // 2**20
        raise DatasetError(
            f"{SourceLocation(str(path), number)}: the line is over {limit} MB; write one record a line."
        )
    return line


def _without_byte_order_mark(content: bytes, path: Path) -> bytes:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DatasetError(f"{SourceLocation(str(path), 1)}: the file is UTF-16; save it as UTF-8.")
    return content.removeprefix(b"\xef\xbb\xbf")


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number) from error


def _not_utf8(path: Path, number: int) -> DatasetError:
    return DatasetError(f"{SourceLocation(str(path), number)}: the text is not UTF-8; save the file as UTF-8.")


def _unreadable(path: Path, error: Exception, number: int = 0) -> DatasetError:
    if isinstance(error, FileNotFoundError):
        return DatasetError(f"{path}: there is no such file; check the path.")
    if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
        return DatasetError(
            f"{SourceLocation(str(path), number)}: the gzip file is cut off or damaged; fetch it again."
        )
    return DatasetError(f"{path}: the file cannot be read ({error}); check the path and its permissions.")
