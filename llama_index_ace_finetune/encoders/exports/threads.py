"""Number of threads for a runtime."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def usable_threads() -> int:
    """Return OMP_NUM_THREADS if it is set, else the number of CPUs available to this process, at least 1.

    The CPU quota of a container (cgroups v2) counts, since more threads than that block each other.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _quota() or allowed))


def _quota() -> int | None:
    try:
        quota, _, period = _CGROUP_LIMIT.read_text(encoding="ascii").partition(" ")
        return max(1, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None  # no limit, or not in this file
