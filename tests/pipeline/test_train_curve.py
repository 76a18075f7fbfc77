from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.evaluation.result import BASE, MEASURE, TUNED
from llama_index_ace_finetune.pipeline import learning_curve
from llama_index_ace_finetune.training.config import TrainingConfig


def test_a_curve_leaves_out_the_files_that_the_record_of_the_model_only_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[tuple[int, TrainingConfig]] = []

    def train(part: TrainingData, config: TrainingConfig, **_: Any) -> None:
        trained.append((len(part.examples), config))

    monkeypatch.setattr(learning_curve, "train_model", train)
    monkeypatch.setattr(learning_curve, "_tested", lambda *_: np.array([0.5, 0.5, 1.0]))
    examples = tuple(
        TrainingExample(f"q{row}", f"question {row}", (f"m{row}",), split="dev" if row < 2 else "train")
        for row in range(22)
    )
    data = TrainingData(examples, {f"m{row}": f"memory {row}" for row in range(22)})
    values = {BASE: {MEASURE: np.array([0.0, 0.5, 0.5])}, TUNED: {MEASURE: np.array([1.0, 1.0, 1.0])}}
    evaluation: Any = SimpleNamespace(
        data=SimpleNamespace(queries=("another question",), groups=["a", "b", "c"]), values=values
    )
    config = TrainingConfig(epochs=3, retention="general.jsonl", also=("tickets.jsonl",)).to_dict()
    curve = learning_curve.train_curve(evaluation, data, (8, 12, 20), record={"config": config})
    assert [count for count, _ in trained] == [10, 14]  # with both dev queries; the whole data is not trained on again
    assert {(one.epochs, one.retention, one.also) for _, one in trained} == {(3, None, ())}
    assert [point.queries for point in curve.points] == [8, 12, 20]
