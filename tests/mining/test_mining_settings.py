from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.mining.settings import MiningSettings


def test_the_defaults_refuse_what_scores_like_a_right_answer() -> None:
    settings = MiningSettings()
    assert (settings.top_k, settings.near_duplicate, settings.dense, settings.bm25) == (50, 0.95, True, True)
    assert (settings.min_rank, settings.relative_margin, settings.absolute_margin) == (None, 0.95, None)
    assert settings.nearer_answer is None
    assert (settings.max_score, settings.teacher, settings.relaxation) == (None, None, ())
    assert (settings.selection, settings.seed) == ("random", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is 0; it must be at least 1"),
        ({"min_rank": 0}, r"min_rank is 0; it must be from 1 to top_k \(50\)"),
        ({"min_rank": 6, "top_k": 5}, r"min_rank is 6; it must be from 1 to top_k \(5\)"),
        ({"near_duplicate": 0.0}, "near_duplicate is 0.0"),
        ({"near_duplicate": 1.1}, "near_duplicate is 1.1"),
        ({"near_duplicate": float("nan")}, "near_duplicate is nan"),
        ({"relative_margin": 0}, "relative_margin is 0; it must be above 0"),
        ({"relative_margin": float("nan")}, "relative_margin is nan; it must be a finite number"),
        ({"absolute_margin": -0.1}, "absolute_margin is -0.1; it must be 0 or more"),
        ({"absolute_margin": float("inf")}, "absolute_margin is inf"),
        ({"max_score": float("nan")}, "max_score is nan"),
        ({"selection": "best"}, "selection is best; it must be top, random, spread"),
        ({"relaxation": (1.0,), "relative_margin": None}, "relaxation loosens relative_margin, which is off"),
        ({"relaxation": (0.9,), "relative_margin": 0.9}, r"relaxation is \(0.9,\); it must be margins that rise"),
        ({"relaxation": (None, 1.0), "relative_margin": 0.9}, "margins that rise .* None last"),
        ({"relaxation": (None, None), "relative_margin": 0.9}, "margins that rise"),
        ({"relaxation": (float("nan"),), "relative_margin": 0.9}, "margins that rise"),
        (
            {"teacher": "a-model", "relative_margin": None},
            "teacher is 'a-model', but nothing uses its scores; set relative_margin",
        ),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AceFinetuneError, match=message) as caught:
        MiningSettings(**options)
    assert "\n" not in str(caught.value)


def test_settings_stay_as_they_are() -> None:
    settings = MiningSettings(relative_margin=0.95, relaxation=(1.0, None), teacher=Path("teacher"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.top_k = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        MiningSettings(20)  # type: ignore[misc]
    assert json.loads(json.dumps(settings.to_dict()))["relaxation"] == [1.0, None]
    assert settings.to_dict()["teacher"] == "teacher"
