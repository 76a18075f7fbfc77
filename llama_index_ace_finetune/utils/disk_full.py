"""Recognise errors of a full disk."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llama_index_ace_finetune.errors import AceFinetuneError

_NUMBERS: Final = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
# Libraries that report it only in the message: safetensors and tokenizers (Rust), NumPy, torch, SQLite.
_WORDS: Final = re.compile(
    r"No space left on device|File too large|os error 2[78]\b|\d+ requested and \d+ written|"
    r"PytorchStreamWriter failed writing|unexpected pos \d+ vs|database or disk is full",
)


def is_disk_full(error: BaseException) -> bool:
    """Whether the error, or one that caused it, says that the disk or the quota is full or a file too large."""
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in _NUMBERS or _WORDS.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextlib.contextmanager
def disk_full_is_an_error(output: Path) -> Iterator[None]:
    """Raise an AceFinetuneError that names `output` if the block runs out of disk space."""
    try:
        yield
    except Exception as error:
        if isinstance(error, AceFinetuneError) or not is_disk_full(error):
            raise
        message = " ".join(str(error).split())[:200]
        raise AceFinetuneError(
            f"The output {str(output)!r} was not written, since the disk or the quota is full ({message}); free some "
            "space, or write to another disk, and repeat the command."
        ) from error
