"""Whether the weights of a model were trained once more after they were selected on dev, by the model's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shipped_refit(record: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return what a refit of a model did; None if the weights that were selected on dev ship.

    "on" of it is "dev" if the model was trained on train and dev queries, "all" if also on test queries.

    Args:
        record: of the model (`ace_finetune.json`).
    """
    metrics = (record or {}).get("metrics")
    refit = metrics.get("refit") if isinstance(metrics, Mapping) else None
    if not isinstance(refit, Mapping) or not refit.get("ships"):
        return None
    return {**refit, "on": "all" if refit.get("on") == "all" else "dev"}
