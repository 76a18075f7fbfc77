"""Mining settings whose results can be checked by hand."""

from __future__ import annotations

from typing import Any

from llama_index_ace_finetune.mining.settings import MiningSettings


def plain(**options: Any) -> MiningSettings:
    """Settings without a margin that select the top ranks of the first twenty, unless `options` override them."""
    return MiningSettings(**{"range_max": 20, "relative_margin": None, "sampling_strategy": "top", **options})
