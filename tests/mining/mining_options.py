"""Settings under which a hand can follow what the miner takes."""

from __future__ import annotations

from typing import Any

from llama_index_ace_finetune.mining.settings import MiningSettings


def plain(**options: Any) -> MiningSettings:
    """The best ranks of the first twenty, with no margin, where `options` do not say otherwise."""
    return MiningSettings(**{"range_max": 20, "relative_margin": None, "sampling_strategy": "top", **options})
