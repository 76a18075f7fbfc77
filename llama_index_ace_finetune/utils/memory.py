"""Main memory: its size, errors where it does not suffice, and the allocator."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

# The last is that of cuBLAS and cuDNN, which allocate memory of the GPU themselves.
_MESSAGES = ("out of memory", "can't allocate memory", "_STATUS_ALLOC_FAILED")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int | None:
    """Return the size of the main memory, or the limit of a container (cgroups v2) if lower; None if unknown."""
    sizes = [_bytes_of("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):  # no limit, or not in this file
        sizes.append(int(_CGROUP_LIMIT.read_text(encoding="ascii")))
    return min((size for size in sizes if size and size > 0), default=None)


def available_memory_bytes() -> int | None:
    """Return the free main memory, at most `memory_bytes`; None if unknown."""
    total, free = memory_bytes(), _bytes_of("SC_AVPHYS_PAGES")
    return None if total is None or free is None else min(total, free)


def _bytes_of(pages: str) -> int | None:
    """The bytes of a number of pages that `sysconf` knows by name; None if it does not."""
    known = {pages, "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys()
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") if known else None


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
