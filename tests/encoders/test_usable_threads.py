from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_index_ace_finetune.encoders.exports import threads
from llama_index_ace_finetune.encoders.exports.threads import usable_threads


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "_CGROUP_LIMIT", tmp_path / "cpu.max")
    return tmp_path / "cpu.max"


def test_available_cpus() -> None:
    assert usable_threads() == 8


def test_environment_variable_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usable_threads() == 3


@pytest.mark.parametrize("value", ["", "0", "many"])
def test_invalid_environment_variable_is_ignored(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert usable_threads() == 8


@pytest.mark.parametrize(
    ("limit", "count"),
    [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("1600000 100000", 8), ("nonsense", 8), ("1 0", 8)],
)
def test_container_quota_limits_threads(limit: str, count: int, eight_processors: Path) -> None:
    eight_processors.write_text(limit)
    assert usable_threads() == count
