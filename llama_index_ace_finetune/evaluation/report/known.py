"""Two questions side by side: queries about new memories, and new queries about known memories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.known import KnownResults
from llama_index_ace_finetune.evaluation.result import MEASURE, Evaluation
from llama_index_ace_finetune.evaluation.stats.bootstrap import bootstrap_intervals
from llama_index_ace_finetune.evaluation.stats.groups import Groups, number_groups

_MEASURES = (MEASURE, "Success@1")


def describe_known(evaluation: Evaluation, names: Iterable[str]) -> dict[str, Any] | None:
    """Return means of some systems with 95% intervals on both kinds of queries; None without known ones.

    Args:
        evaluation: of all systems.
        names: of the systems; a repeated name is shown once.
    """
    known = evaluation.known
    if known is None:
        return None
    return {
        "queries": {"new": len(evaluation.data.queries), "known": len(known.data.queries)},
        "systems": [
            {"name": name, "new": _part(evaluation, name), "known": _part(known, name)}
            for name in dict.fromkeys(names)
            if name in known.values
        ],
    }


def _part(results: Evaluation | KnownResults, name: str) -> dict[str, Any]:
    """Return the means of a system with their intervals, and its difference to the base in MRR@10."""
    values, groups = results.values[name], results.data.groups
    difference = results.comparisons[MEASURE].differences.get(name)
    return {**_means(values, groups), "difference_to_base": None if difference is None else asdict(difference)}


def _means(values: Mapping[str, NDArray[np.float64]], groups: Groups) -> dict[str, dict[str, float]]:
    table = np.stack([values[measure] for measure in _MEASURES], axis=1)
    low, high = bootstrap_intervals(table, number_groups(groups, len(table)))
    ends = zip(_MEASURES, table.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return {measure: {"mean": mean, "low": least, "high": most} for measure, mean, least, most in ends}
