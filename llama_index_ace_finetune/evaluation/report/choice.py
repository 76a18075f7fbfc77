"""The choice of the served system as JSON values: candidates with quality and cost, and the estimate of its gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import Choice
from llama_index_ace_finetune.evaluation.choosing.contributions import contributions
from llama_index_ace_finetune.evaluation.choosing.known_queries import KnownQueryChoice
from llama_index_ace_finetune.evaluation.choosing.structures import Structure
from llama_index_ace_finetune.evaluation.result import BASE, Evaluation
from llama_index_ace_finetune.evaluation.stats.bootstrap import bootstrap_intervals
from llama_index_ace_finetune.evaluation.stats.groups import number_groups


def describe_choice(evaluation: Evaluation, choice: Choice) -> dict[str, Any] | None:
    """Return the candidates on dev, each at its selected weights, and the nested estimate; None without dev queries.

    Args:
        evaluation: of all systems.
        choice: which of its choices the verdict is about.
    """
    if not len(choice.values):
        return None
    count = len(choice.values)  # of the dev queries that were compared on
    groups = number_groups(evaluation.dev_groups[:count] or None, count)
    compared = [one for one in evaluation.candidates if one.structure.name in choice.means]
    base = next((one.values[0] for one in evaluation.candidates if one.structure.name == BASE), None)
    return {
        "queries": count,
        "system": choice.candidate.structure.name,
        "settings": {"kind": choice.settings.kind, "weights": dict(choice.settings.weights)},
        "nested": _interval(choice.nested, groups),
        "nested_gain": None if base is None else _interval(choice.nested - base, groups),
        "contributions": contributions(evaluation.candidates, choice),
        "candidates": [_candidate(one, choice) for one in compared],
        "windows": _windows(evaluation, choice),
        "known_queries": _known_queries(choice.known_queries),
    }


def frontier(candidates: Sequence[dict[str, Any]], cost: str) -> list[dict[str, Any]]:
    """Return the candidates that are better than all with the same or a lower cost, from cheap to dear."""
    best: list[dict[str, Any]] = []
    for one in sorted((one for one in candidates if one[cost] is not None), key=lambda one: (one[cost], -one["mrr"])):
        if not best or one["mrr"] > best[-1]["mrr"]:
            best.append(one)
    return best


def _windows(evaluation: Evaluation, choice: Choice) -> dict[str, Any] | None:
    """Return how many texts are truncated, and MRR@10 on dev of the dense leg only without and with their windows.

    None if no text is truncated.
    """
    structure = choice.candidate.structure
    model = BASE if structure.embedding == "none" else structure.embedding
    windows = evaluation.windows.get(model)
    if windows is None or not windows.truncated:
        return None
    dense = {one.structure.windows: one for one in evaluation.candidates if _is_dense_only(one.structure, model)}
    means = {used: float(one.values[0].mean()) for used, one in dense.items()}
    return {
        "used": structure.windows,
        "truncated": windows.truncated,
        "memories": len(evaluation.data.corpus),
        "tokens": windows.encoder.limit,
        "windows": len(windows.texts),
        "without": means.get(False),
        "with": means.get(True),
    }


def _is_dense_only(structure: Structure, model: str) -> bool:
    return structure.legs == ("dense",) and structure.embedding == model


def _known_queries(choice: KnownQueryChoice | None) -> dict[str, Any] | None:
    """Return the chosen offset, why, and MRR@10 of both kinds of dev queries by offset; that without is None.

    "bm25" has the same by the weight of known queries in BM25.
    """
    if choice is None:
        return None
    curve = [{"offset": offset, "new": choice.new[offset], "known": choice.known[offset]} for offset in choice.new]
    field, bm25 = choice.bm25, None
    if field:
        by_weight = [{"weight": one, "new": field.new[one], "known": field.known[one]} for one in field.new]
        bm25 = {"weight": field.weight, "reason": field.reason, "curve": by_weight}
    return {"offset": choice.offset, "reason": choice.reason, "curve": curve, "bm25": bm25}


def _candidate(candidate: Candidate, choice: Choice) -> dict[str, Any]:
    structure = candidate.structure
    row = choice.rows[structure.name]
    return {
        "name": structure.name,
        "trained": structure.trained,
        "weights": dict(structure.settings(row).weights),
        "mrr": choice.means[structure.name],
        "milliseconds": _rounded(candidate.milliseconds),
        "bytes_per_memory": _rounded(candidate.bytes_per_memory),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _interval(values: NDArray[np.float64], groups: NDArray[np.int64]) -> dict[str, float]:
    low, high = bootstrap_intervals(values[:, None], groups)
    return {"mean": float(values.mean()), "low": float(low[0]), "high": float(high[0])}
