"""The outcome in a sentence for readers who know no measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain_sentence(report: Mapping[str, Any]) -> str:
    """Return how many test queries find a relevant document first, by the served system and by the base model.

    Args:
        report: as JSON values. Success@1 is the fraction of queries with a relevant document in first place.
    """
    total = report["metadata"]["total_queries_evaluated"]
    means = {system["name"]: system["means"] for system in report["systems"]}
    served, base = (round(means[name]["Success@1"] * total) for name in (report["serving"]["system"], "base"))
    of = f"{served:,} of {total:,} {'query' if total == 1 else 'queries'}"
    if report["serving"]["system"] == "base":
        return f"The base model is served as it is: a relevant document comes first for {of}."
    return f"A relevant document comes first for {of}; before, with the base model: {base:,}."
