"""User messages for errors of the operating system."""

from __future__ import annotations

import errno
import os
import re

from llama_index_ace_finetune.utils.disk_full import is_disk_full

_REMEDIES = {
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.ENOENT: "check the path",
    errno.EEXIST: "give another path, or move the existing one away",
    errno.ENOTEMPTY: "give another path, or move the existing one away",
    errno.EISDIR: "give a file instead of a folder",
    errno.ENOTDIR: "give a path whose parents are folders",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "remove the loop of symbolic links",
    errno.EROFS: "write to another place, since this file system is read-only",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
}
_LONGEST_PATH = 200  # characters of a message
# Libraries in Rust (tokenizers, safetensors) report the system's error by its number.
_OF_RUST = re.compile(r"\(os error (\d+)\)")


def os_error_sentence(error: BaseException) -> str | None:
    """Return one sentence (what, where, what to do) for the operating system error behind `error`, else None.

    Covered are an OSError that names a file, a full disk, and a library error that quotes the error number. An OSError
    without a file, such as of a connection, gives None: the code that opened the connection gives a better message.
    """
    seen: BaseException | None = error
    while seen is not None:
        if sentence := _sentence(seen):
            return sentence
        seen = seen.__cause__
    return None


def _sentence(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        number, path = error.errno, error.filename
    elif found := _OF_RUST.search(str(error)):
        number, path = int(found[1]), None
    else:
        number, path = None, None
    if is_disk_full(error):
        where = f" under {_shown(path)}" if path is not None else ""
        return f"The disk is full{where} ({_reason(error, number)}); free some space, or write to another one."
    if number is None or (isinstance(error, OSError) and path is None):
        return None
    what = f"The path {_shown(path)}" if path is not None else "A file"
    return f"{what} cannot be used ({_reason(error, number)}); {_REMEDIES.get(number, 'check the path')}, then repeat."


def _reason(error: BaseException, number: int | None) -> str:
    return os.strerror(number) if number else " ".join(str(error).split())


def _shown(path: object) -> str:
    text = os.fsdecode(path) if isinstance(path, (str, bytes)) else str(path)
    return repr(text if len(text) <= _LONGEST_PATH else f"{text[:60]}...{text[-100:]}")
