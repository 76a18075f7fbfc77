"""What a mining run found, for people and for training_data.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.mining.mined import MinedNegatives

# The original's published file held 12 distinct texts in 5,190 places: a sign of a broken index, not of hard negatives.
_FEW_DISTINCT = 0.01
_LONG = ("histograms", "samples")


def mining_report(mined: MinedNegatives, *, queries: int, wanted: int) -> dict[str, Any]:
    """Return what `save_mining_report` writes, as plain numbers.

    `candidates` = `kept` + all of `filtered` + `not_needed`. `passing` is the yield of each filter: of the candidates
    that reached it, the share that passed.
    """
    return {
        "queries": queries,
        "wanted_per_query": wanted,
        "candidates": mined.candidates,
        "candidates_per_source": {name: count for name, count in mined.found.items() if count},
        "filtered": mined.filtered,
        "passing": mined.passing_shares,
        "relaxed": [
            {"relative_margin": step.relative_margin, "queries": step.queries, "negatives": step.negatives}
            for step in mined.relaxed
        ],
        "kept": mined.kept,
        "not_needed": mined.not_needed,
        "distinct": mined.distinct,
        "queries_with_fewer": int(((mined.rows >= 0).sum(axis=1) < wanted).sum()),
        "suspicious": bool(mined.kept > 500 and mined.distinct < _FEW_DISTINCT * mined.kept),
        "histograms": mined.histograms.to_dict(),
    }


def mining_counts(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a report that is short enough for training_data.json."""
    return {name: value for name, value in report.items() if name not in _LONG}


def require_some(mined: MinedNegatives) -> None:
    """Raise DatasetError, naming the filter that took most, where not a single negative is left."""
    if mined.kept or not len(mined.rows):
        return
    if not mined.candidates:
        raise DatasetError("No candidates for hard negatives were found; the corpus needs more than the right answers.")
    worst = max(mined.filtered, key=lambda name: mined.filtered[name])
    raise DatasetError(
        f"All {mined.candidates} candidates for hard negatives were filtered, {mined.filtered[worst]} of them as "
        f"{worst!r}; add memories to the corpus or loosen that filter."
    )
