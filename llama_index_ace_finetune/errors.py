"""The one kind of error that a user can cause."""

from __future__ import annotations


class AceFinetuneError(Exception):
    """Something a user can put right.

    The message is one sentence that says what is wrong, where, and what to do. The command line
    prints it without a traceback and exits with status 2.
    """


class DatasetError(AceFinetuneError):
    """A dataset cannot be read, or says two things at once. Names the file and, where known, the line."""


class LeakageError(AceFinetuneError):
    """Training data and held-out data share a query, an answer or a text."""


class ModelError(AceFinetuneError):
    """A model cannot be found, is incomplete, or is not the one that was expected."""


class TrainingError(AceFinetuneError):
    """Training cannot start or cannot go on."""


class StoreError(AceFinetuneError):
    """A memory store cannot be opened, or holds other vectors than the model makes."""


class OutputExistsError(AceFinetuneError):
    """An output path already holds something that would be overwritten."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
