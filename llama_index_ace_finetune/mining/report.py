"""What a mining run found, for people and for training_data.json."""

from __future__ import annotations

from typing import Any

from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.mining.mine import MinedNegatives

# The original's published file held 12 distinct texts in 5,190 places: a sign of a broken index, not of hard negatives.
_FEW_DISTINCT = 0.01


def mining_report(mined: MinedNegatives, *, queries: int, wanted: int) -> dict[str, Any]:
    """Return counts: candidates, what each filter took, what was kept, and how many queries got fewer than wanted."""
    return {
        "queries": queries,
        "wanted_per_query": wanted,
        "candidates": mined.candidates,
        "filtered": dict(sorted(mined.filtered.items())),
        "kept": mined.kept,
        "distinct": mined.distinct,
        "queries_with_fewer": sum(len(row) < wanted for row in mined.negatives),
        "suspicious": bool(mined.kept > 500 and mined.distinct < _FEW_DISTINCT * mined.kept),
    }


def require_some(mined: MinedNegatives) -> None:
    """Raise DatasetError, naming the filter that took most, where not a single negative is left."""
    if mined.kept or not mined.negatives:
        return
    if not mined.candidates:
        raise DatasetError("No candidates for hard negatives were found; the corpus needs more than the right answers.")
    worst = max(mined.filtered, key=lambda name: mined.filtered[name])
    raise DatasetError(
        f"All {mined.candidates} candidates for hard negatives were filtered, {mined.filtered[worst]} of them as "
        f"{worst!r}; add memories to the corpus or loosen that filter."
    )
