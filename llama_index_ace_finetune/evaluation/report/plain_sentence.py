"""The outcome in a sentence for readers who know no measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain_sentence(report: Mapping[str, Any]) -> str:
    """Return how many test queries find a relevant document first, by the served system and by the base model.

    With folds, the queries are those of all folds, and the systems those that dev selected in them.

    Args:
        report: as JSON values. Success@1 is the fraction of queries with a relevant document in first place.
    """
    folds, name = report.get("folds"), report["serving"]["system"]
    total = folds["queries"] if folds else report["metadata"]["total_queries_evaluated"]
    means = {system["name"]: system["means"] for system in (folds or report)["systems"]}
    if folds and name != "base":
        *_, name = means
    served, base = (round(means[one]["Success@1"] * total) for one in (name, "base"))
    of = f"{served:,} of {total:,} {'query' if total == 1 else 'queries'}"
    if report["serving"]["system"] == "base":
        return f"The base model is served as it is: a relevant document comes first for {of}."
    return f"A relevant document comes first for {of}; before, with the base model: {base:,}."
