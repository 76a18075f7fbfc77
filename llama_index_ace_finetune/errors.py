"""Errors that a user can cause."""

from __future__ import annotations

import reprlib
from typing import Final

from llama_index_ace_finetune.utils.redact import without_passwords

MAX_MESSAGE: Final = 500
"""Characters of a message: its middle is cut out if a damaged or hostile file makes it longer."""


class AceFinetuneError(Exception):
    """An error that a user can fix.

    The message is one sentence that says what is wrong, where, and what to do. The command line
    prints it without a traceback and exits with status 2. It is cut to `MAX_MESSAGE` characters.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message, MAX_MESSAGE))


class DatasetError(AceFinetuneError):
    """A dataset cannot be read, or contradicts itself. Names the file and, if known, the line."""


class LeakageError(AceFinetuneError):
    """Training data and held-out data share a query, an answer or a text."""


class ModelError(AceFinetuneError):
    """A model cannot be found, is incomplete, or is not the one that was expected."""


class TrainingError(AceFinetuneError):
    """Training cannot start or continue."""


class StoreError(AceFinetuneError):
    """A memory store cannot be opened, or holds vectors of another model."""


class LogError(AceFinetuneError):
    """A query log cannot be opened, is of another version, or does not hold the query that feedback names."""


class OutputExistsError(AceFinetuneError):
    """An output path already holds something that would be overwritten."""


def shortened(text: str, limit: int) -> str:
    """Return `text` in at most `limit` characters; a longer one loses its middle, since the end says what to do."""
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail - 5]} ... {text[len(text) - tail :]}"


def quoted(value: object, limit: int = 80) -> str:
    """Return a value from a file as a message may quote it: one line of at most `limit` characters."""
    try:
        return shortened(_QUOTING.repr(value), limit)
    except (ValueError, RecursionError):  # Python does not print integers of more than 4,300 digits
        return f"<{type(value).__name__}>"


_QUOTING = reprlib.Repr()
_QUOTING.maxstring = _QUOTING.maxother = _QUOTING.maxlong = 200


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without passwords in URLs, or its type if it has no message."""
    return without_passwords((str(error).strip().splitlines() or [type(error).__name__])[0])
