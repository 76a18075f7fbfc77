"""From the options of a verb to settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRAINING = {
    "base_model": "base_model",
    "query_prompt": "query_prompt",
    "document_prompt": "document_prompt",
    "mode": "mode",
    "keep_index": "keep_index",
    "epochs": "epochs",
    "budget": "budget_minutes",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "remine": "remine",
    "refit": "refit",
    "late_interaction_weight": "late_interaction_weight",
    "retention": "retention",
    "device": "device",
    "precision": "precision",
    "seed": "seed",
}
_LISTS = ("also", "tasks")
"""Options that may be repeated, or separated by commas."""
_MINING = {
    name: name
    for name in (
        "range_max",
        "range_min",
        "relative_margin",
        "absolute_margin",
        "max_score",
        "nearer_answer",
        "teacher",
        "sampling_strategy",
        "dense",
        "bm25",
        "seed",
    )
}


def training_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings among a verb's options; an option that is None was not given."""
    lists = {name: [one for value in given.get(name) or () for one in value.split(",") if one] for name in _LISTS}
    return {**_named(given, _TRAINING), **{name: values for name, values in lists.items() if values}}


def mining_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mining settings among a verb's options."""
    settings = _named(given, _MINING)
    if given.get("no_relative_margin"):
        settings["relative_margin"] = None
    if given.get("relax"):
        settings["relaxation"] = (0.0, None)
    return settings


def _named(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {setting: given[flag] for flag, setting in names.items() if given.get(flag) is not None}
