"""The size of the main memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_index_ace_finetune.utils import memory

PHYSICAL = 16 << 30


@pytest.mark.parametrize(
    ("limit", "size"),
    [("max\n", PHYSICAL), ("4294967296\n", 4 << 30), (f"{1 << 50}\n", PHYSICAL), ("0\n", PHYSICAL), (None, PHYSICAL)],
)
def test_container_with_less_memory_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, size: int
) -> None:
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": PHYSICAL >> 12, "SC_PAGE_SIZE": 1 << 12}.__getitem__)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert memory.memory_bytes() == size


def test_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr(os, "sysconf_names", {})
    assert memory.memory_bytes() is None
