"""How many threads a runtime may take."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def usable_threads() -> int:
    """Return OMP_NUM_THREADS where it is set, else the processors that this process may use, at least 1.

    A container's processor quota (control groups, version 2) counts, since more threads than that wait for each other.
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
        return None  # no limit, or none that is written down here
