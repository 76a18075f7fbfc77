"""From the options of a verb to the settings that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRAINING = {
    "base_model": "base_model",
    "mode": "mode",
    "keep_index": "keep_index",
    "epochs": "epochs",
    "budget": "budget_minutes",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "retention": "retention",
    "device": "device",
    "seed": "seed",
}
_MINING = {
    name: name
    for name in (
        "top_k",
        "min_rank",
        "absolute_margin",
        "max_score",
        "nearer_answer",
        "teacher",
        "selection",
        "dense",
        "bm25",
        "seed",
    )
}


def training_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the training among a verb's options; an option that is None was not given."""
    return _named(given, _TRAINING)


def mining_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the mining among a verb's options."""
    settings = _named(given, _MINING)
    margin = given.get("relative_margin")
    if margin is not None:
        settings["relative_margin"] = margin or None
    if given.get("relax"):
        settings["relaxation"] = (1.0, None)
    return settings


def _named(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {setting: given[flag] for flag, setting in names.items() if given.get(flag) is not None}
