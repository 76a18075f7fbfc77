"""Read JSON from untrusted files."""

from __future__ import annotations

import json
import re
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune.utils.file_errors import Refusal, UnusableFileError
from llama_index_ace_finetune.utils.open_file import read_bytes

MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 40
"""Digits of an integer: 128 bits have 39, and every such number converts to float."""
MAX_BYTES: Final = 32 * 2**20

_STRING: Final = re.compile(r'"[^"]*"')


class RepeatedKeyError(ValueError):
    """A key that occurs twice in one object; the standard parser silently keeps the last value."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r:.80} occurs twice in one object")
        self.key = key


def read_json_file(
    path: Path,
    refusal: Refusal,
    *,
    max_bytes: int = MAX_BYTES,
    unique_keys: bool = False,
    finite: bool = False,
    checksum: int | None = None,
) -> Any:
    """Return the JSON value in a UTF-8 file.

    Args:
        path: of a regular file, which is opened once.
        refusal: builds the error message.
        max_bytes: largest accepted file size.
        unique_keys: refuse a key that occurs twice in one object.
        finite: refuse NaN and infinite numbers.
        checksum: CRC-32 that the file must have.

    Raises:
        AceFinetuneError: the refusal's own class.
    """
    try:
        content = read_bytes(path, limit=max_bytes)
        if checksum is not None and zlib.crc32(content) != checksum:
            raise UnusableFileError("is damaged (its checksum differs)")
        try:
            return parse_json(content.decode("utf-8-sig"), unique_keys=unique_keys, finite=finite)
        except UnicodeDecodeError as error:
            raise UnusableFileError("is corrupt (invalid JSON: it is not UTF-8)") from error
        except json.JSONDecodeError as error:
            raise UnusableFileError(
                f"is corrupt (invalid JSON on line {error.lineno}, column {error.colno}: {error.msg})"
            ) from error
        except ValueError as error:
            raise UnusableFileError(f"is corrupt ({error})") from error
    except UnusableFileError as error:
        raise refusal.because(path, error) from error


def read_json_object(
    path: Path, refusal: Refusal, *, max_bytes: int = MAX_BYTES, unique_keys: bool = False, finite: bool = False
) -> dict[str, Any]:
    """`read_json_file` for a file that must hold an object."""
    value = read_json_file(path, refusal, max_bytes=max_bytes, unique_keys=unique_keys, finite=finite)
    if not isinstance(value, dict):
        raise refusal.because(path, "is corrupt (it is not a JSON object)")
    return value


def parse_json(text: str, *, unique_keys: bool = False, finite: bool = False) -> Any:
    """Return the JSON value in a text.

    Raises:
        ValueError: for invalid JSON (a `json.JSONDecodeError`, with its line and column), nesting deeper than
            `MAX_DEPTH`, integers of more than `MAX_DIGITS` digits, and values that the options refuse.
    """
    if nested_too_deeply(text):
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    return json.loads(
        text,
        parse_int=_integer,
        parse_constant=_no_constant if finite else None,
        object_pairs_hook=_unique if unique_keys else None,
    )


def nested_too_deeply(text: str) -> bool:
    """Whether objects and lists are nested more than `MAX_DEPTH` levels deep."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    # Brackets in strings do not count; without escapes, a string is the text between two quotes.
    bare = _STRING.sub("", text.replace("\\\\", "").replace('\\"', ""))
    steps = (1 if sign in "[{" else -1 for sign in re.findall(r"[\[\]{}]", bare))
    return any(depth > MAX_DEPTH for depth in accumulate(steps))


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it holds an integer of {len(digits):,} digits")
    return int(digits)


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is not a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RepeatedKeyError(key)
            seen.add(key)
    return record
