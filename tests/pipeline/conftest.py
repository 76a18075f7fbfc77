from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_index_ace_finetune.pipeline.run import RunSettings, run_pipeline
from llama_index_ace_finetune.training.config import TrainingConfig


@pytest.fixture(scope="session")
def write_suite(demo_suite: Path) -> Callable[[Path, int], Path]:
    """Write a suite with every few memories of the demo's."""

    def write(target: Path, memories: int) -> Path:
        return _small_suite(demo_suite, target, memories)

    return write


def _small_suite(source: Path, target: Path, memories: int) -> Path:
    suite: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    cases = suite["test_cases"]
    suite["test_cases"] = cases[:: len(cases) // memories][:memories]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(suite), encoding="utf-8")
    return target


@pytest.fixture(scope="session")
def suite(write_suite: Callable[[Path, int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite") / "suite.json", 24)


@pytest.fixture(scope="session")
def finished_run(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one short epoch."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run_pipeline(RunSettings(data=suite, out=out, training=TrainingConfig(epochs=1, batch_size=32)))
    return out
