"""Convert settings in files of version 0.1.0, where some had other names and two margins another meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

LARGE_MARGIN: Final = 0.5
"""Distances from the positive are below it in practice, fractions of the score of the positive above it."""
MINING_NAMES: Final[Mapping[str, str]] = {
    "top_k": "range_max",
    "min_rank": "range_min",
    "selection": "sampling_strategy",
}
"""Names of mining settings in 0.1.0, and the current names."""


def as_distance(fraction: Any) -> Any:
    """Return the margin below a positive for the fraction of its score that 0.1.0 used as limit (0.95 gives 0.05).

    Other values than numbers are returned unchanged, and refused later by the settings.
    """
    try:
        return fraction if fraction is None or isinstance(fraction, bool) else round(1 - float(fraction), 12)
    except (TypeError, ValueError):
        return fraction


def current_mining(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return mining settings of 0.1.0 with the current names and meaning.

    `min_rank` was the first rank of the window, `range_min` is the number of ranks above it.
    """
    settings = {MINING_NAMES.get(name, name): value for name, value in old.items()}
    first = old.get("min_rank")
    if "min_rank" in old:
        settings["range_min"] = 0 if first is None else first - 1 if isinstance(first, int) else first
    if "relative_margin" in old:
        settings["relative_margin"] = as_distance(old["relative_margin"])
    if isinstance(old.get("relaxation"), (list, tuple)):
        settings["relaxation"] = [as_distance(margin) for margin in old["relaxation"]]
    return settings


def current_training(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return training settings of 0.1.0 with the current meaning."""
    if "suspected_margin" not in old:
        return dict(old)
    return {**old, "suspected_margin": as_distance(old["suspected_margin"])}


def current_metadata(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of training data of 0.1.0 with its mining settings in the current form."""
    mining = old.get("mining")
    if not isinstance(mining, Mapping):
        return dict(old)
    mining = dict(mining)
    if isinstance(mining.get("settings"), Mapping):
        mining["settings"] = current_mining(mining["settings"])
    if isinstance(mining.get("relaxed"), list):
        mining["relaxed"] = [
            {**step, "relative_margin": as_distance(step.get("relative_margin"))}
            for step in mining["relaxed"]
            if isinstance(step, Mapping)
        ]
    return {**old, "mining": mining}
