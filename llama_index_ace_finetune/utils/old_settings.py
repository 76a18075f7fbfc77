"""Settings in files of version 0.1.0, where some had other names, and two margins another meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

LARGE_MARGIN: Final = 0.5
"""As a distance from the positive nobody means more; as a part of its score nobody meant less."""
MINING_NAMES: Final[Mapping[str, str]] = {
    "top_k": "range_max",
    "min_rank": "range_min",
    "selection": "sampling_strategy",
}
"""Names of mining settings in 0.1.0, and what each is called since."""


def as_distance(share: Any) -> Any:
    """Return the margin below a positive for the part of its score that a negative could reach in 0.1.0 (0.95: 0.05).

    What is no number is returned as it is, for the settings to refuse.
    """
    try:
        return share if share is None or isinstance(share, bool) else round(1 - float(share), 12)
    except (TypeError, ValueError):
        return share


def current_mining(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return mining settings of 0.1.0 under the names, and with the meaning, that they have since.

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
    """Return training settings of 0.1.0 with the meaning that they have since."""
    if "suspected_margin" not in old:
        return dict(old)
    return {**old, "suspected_margin": as_distance(old["suspected_margin"])}


def current_metadata(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of training data of 0.1.0 with its mining settings as they are written since."""
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
