from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.mining.settings import MiningSettings


def test_defaults() -> None:
    settings = MiningSettings()
    assert (settings.range_max, settings.near_duplicate, settings.dense, settings.bm25) == (50, 0.95, True, True)
    assert (settings.range_min, settings.relative_margin, settings.absolute_margin) == (0, 0.05, None)
    assert settings.nearer_answer is None
    assert (settings.max_score, settings.teacher, settings.relaxation) == (None, None, ())
    assert (settings.sampling_strategy, settings.seed) == ("random", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"range_max": 0}, "range_max is 0; it must be at least 1"),
        ({"range_min": -1}, r"range_min is -1; it must be from 0 to below range_max \(50\)"),
        ({"range_min": 5, "range_max": 5}, r"range_min is 5; it must be from 0 to below range_max \(5\)"),
        ({"near_duplicate": 0.0}, "near_duplicate is 0.0"),
        ({"near_duplicate": 1.1}, "near_duplicate is 1.1"),
        ({"near_duplicate": float("nan")}, "near_duplicate is nan"),
        ({"relative_margin": 1}, "relative_margin is 1; it must be below 1"),
        ({"relative_margin": float("nan")}, "relative_margin is nan; it must be a finite number"),
        ({"absolute_margin": -0.1}, "absolute_margin is -0.1; it must be 0 or more"),
        ({"absolute_margin": float("inf")}, "absolute_margin is inf"),
        ({"max_score": float("nan")}, "max_score is nan"),
        ({"sampling_strategy": "best"}, "sampling_strategy is best; it must be top, random, spread"),
        ({"relaxation": (0.0,), "relative_margin": None}, "relaxation lowers relative_margin, which is None"),
        ({"relaxation": (0.1,), "relative_margin": 0.1}, r"relaxation is \(0.1,\); it must be margins that decrease"),
        ({"relaxation": (None, 0.0), "relative_margin": 0.1}, "margins that decrease .* None last"),
        ({"relaxation": (None, None), "relative_margin": 0.1}, "margins that decrease"),
        ({"relaxation": (float("nan"),), "relative_margin": 0.1}, "margins that decrease"),
        (
            {"teacher": "a-model", "relative_margin": None},
            "teacher is 'a-model', but no filter uses its scores; set relative_margin",
        ),
    ],
)
def test_invalid_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AceFinetuneError, match=message) as caught:
        MiningSettings(**options)
    assert "\n" not in str(caught.value)


def test_settings_are_frozen_and_serialisable() -> None:
    settings = MiningSettings(relative_margin=0.05, relaxation=(0.0, None), teacher=Path("teacher"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.range_max = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        MiningSettings(20)  # type: ignore[misc]
    assert json.loads(json.dumps(settings.to_dict()))["relaxation"] == [0.0, None]
    assert settings.to_dict()["teacher"] == "teacher"
