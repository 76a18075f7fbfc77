"""Synthetic dev queries select at most half of the tuned weights where they say too little about users' queries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_training import QUICK

from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.datasets.types import OFFLINE, SYNTHETIC
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.model_selection.synthetic_dev import largest_alpha
from llama_index_ace_finetune.training.modes.linear_adapter import LinearAdapterCandidate, LinearAdapterFit
from llama_index_ace_finetune.training.modes.result import ModeResult

SURE = PairedDifference(mean=0.1, low=0.05, high=0.2, p_value=0.01, wins=3, ties=1, losses=0)


def asked(maker: str | None, count: int) -> list[TrainingExample]:
    metadata = {} if maker is None else {SYNTHETIC: maker}
    return [
        TrainingExample(query_id=f"{maker}{n}", query=f"q {n}", positive_ids=("m",), negatives=(), metadata=metadata)
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("dev", "largest"),
    [
        ([], 1.0),
        (asked(None, 5), 1.0),
        (asked(OFFLINE, 500), 0.5),
        (asked("a model", 39), 0.5),
        (asked("a model", 40), 1.0),
        (asked("a model", 20) + asked(OFFLINE, 20), 1.0),
        (asked(OFFLINE, 500) + asked(None, 1), 1.0),
    ],
)
def test_largest_alpha(dev: list[TrainingExample], largest: float) -> None:
    assert largest_alpha(dev) == largest


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Every difference is a significant gain, and mode "linear" finds the matrix that is returned."""
    matrix = np.eye(384, dtype=np.float32)[::-1].copy()

    def found(*_: object, **__: object) -> LinearAdapterFit:
        whole = LinearAdapterCandidate("trained", 0.1, 15, 1.0, 0.5)
        return LinearAdapterFit(matrix, whole, (whole,), SURE, np.empty(0))

    monkeypatch.setattr("llama_index_ace_finetune.training.modes.linear.fit_query_adapter", found)
    monkeypatch.setattr(
        "llama_index_ace_finetune.training.model_selection.interpolation.paired_difference", lambda *_, **__: SURE
    )
    return matrix


def trained(data: TrainingData, maker: str | None, mode: str, base: str, output: Path, **options: Any) -> ModeResult:
    """The result of a mode on queries that are all made by `maker`, or by users."""
    metadata = {} if maker is None else {SYNTHETIC: maker}
    data = replace(data, examples=tuple(replace(example, metadata=metadata) for example in data.examples))
    tuner = EmbeddingFineTuner(
        TrainingConfig(**{**QUICK, "output_dir": str(output), "base_model": base, "mode": mode, **options})
    )
    tuner.load_training_data(data)
    tuner.initialize_model()
    tuner.train()
    assert tuner.shipped is not None
    return tuner.shipped


@pytest.mark.parametrize("alphas", [(1.0,), (0.25, 1.0)])
def test_training_ships_at_most_half(
    training_data: TrainingData,
    one_layer: str,
    tmp_path: Path,
    sure: np.ndarray,
    alphas: tuple[float, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Dev selects among all shares, and half of the weights are the base's whatever it says."""
    result = trained(training_data, OFFLINE, "full", one_layer, tmp_path / "model", interpolation=alphas)
    assert result.selection is not None
    assert 1.0 in result.selection.candidates
    assert result.selection.alpha in {0.5, *alphas} - {1.0}
    assert result.selection.alpha in result.selection.candidates
    assert "at most 0.5 of the way" in caplog.text
    if alphas == (1.0,):
        base, shipped = (Encoder.load(folder).model.state_dict() for folder in (one_layer, tmp_path / "model"))
        whole = trained(training_data, None, "full", one_layer, tmp_path / "whole", interpolation=alphas)
        assert whole.selection is not None
        assert whole.selection.alpha == 1.0
        tuned = Encoder.load(tmp_path / "whole").model.state_dict()
        for name, weight in shipped.items():
            assert torch.allclose(weight, torch.lerp(base[name], tuned[name], 0.5), atol=1e-6)


@pytest.mark.parametrize(("maker", "share"), [(OFFLINE, 0.5), (None, 1.0)])
def test_adapter_goes_at_most_half_the_way(
    training_data: TrainingData, one_layer: str, tmp_path: Path, sure: np.ndarray, maker: str | None, share: float
) -> None:
    result = trained(training_data, maker, "linear", one_layer, tmp_path / "model")
    assert result.selection is not None
    assert result.selection.alpha == share
    assert result.query_adapter is not None
    assert np.array_equal(result.query_adapter, (1 - share) * np.eye(384) + share * sure)
