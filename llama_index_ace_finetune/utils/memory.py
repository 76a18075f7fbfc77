"""Out-of-memory errors and the memory allocator."""

from __future__ import annotations

import ctypes
import sys

# The last is that of cuBLAS and cuDNN, which allocate memory of the GPU themselves.
_MESSAGES = ("out of memory", "can't allocate memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch ran out of memory; for the CPU and MPS torch says so only in the message."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(part in text for part in _MESSAGES))
    )


# Parameter numbers of mallopt(3) in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 256 << 20


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks and grow the heap in large steps.

    Every forward pass allocates and frees tensors of some megabytes; by default each of them is unmapped, and its
    pages are faulted in again. Only for commands, since it changes the whole process. Returns whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False  # musl has no mallopt
    largest = (1 << 31) - 1
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, largest) and mallopt(_TOP_PAD, _TOP_PAD_BYTES))
