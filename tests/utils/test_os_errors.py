from __future__ import annotations

import errno
import os

import pytest

from llama_index_ace_finetune.utils.os_errors import os_error_sentence


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "permissions"),
        (errno.EISDIR, "instead of a folder"),
        (errno.ENOTDIR, "parents are folders"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.ELOOP, "symbolic links"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "free some space"),
        (errno.EIO, "check the path"),
    ],
)
def test_system_error_names_file_reason_and_remedy(number: int, remedy: str) -> None:
    sentence = os_error_sentence(OSError(number, os.strerror(number), "/data/a.json"))
    assert sentence is not None
    assert "'/data/a.json'" in sentence
    assert os.strerror(number) in sentence
    assert remedy in sentence
    assert "\n" not in sentence


def test_long_path_is_shortened() -> None:
    sentence = os_error_sentence(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000))
    assert sentence is not None
    assert len(sentence) < 400


def test_errors_of_rust_libraries_and_causes_are_found() -> None:
    assert "permissions" in (os_error_sentence(Exception("Permission denied (os error 13)")) or "")
    outer = RuntimeError("loading failed")
    outer.__cause__ = PermissionError(errno.EACCES, "Permission denied", "w.bin")
    assert "'w.bin'" in (os_error_sentence(outer) or "")


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("a"), ConnectionRefusedError(111, "refused"), OSError()])
def test_other_errors_give_none(error: Exception) -> None:
    assert os_error_sentence(error) is None


def test_handled_system_error_does_not_hide_another_error() -> None:
    error = ZeroDivisionError()
    error.__context__ = FileNotFoundError(errno.ENOENT, "No such file", "cache")
    assert os_error_sentence(error) is None
