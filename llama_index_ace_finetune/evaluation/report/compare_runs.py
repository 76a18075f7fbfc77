"""Compare several runs on their shared test queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.report.per_query import PerQuery, per_query_path
from llama_index_ace_finetune.evaluation.report.report import read_report
from llama_index_ace_finetune.evaluation.stats.comparison import compare_measures
from llama_index_ace_finetune.evaluation.stats.seed_variance import SeedVariance


def compare_runs(
    reports: Mapping[str, Path],
    *,
    system: str | None = None,
    seeds: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Any]:
    """Compare the served system of each run, query by query, with that of the first run; return JSON values.

    Args:
        reports: per name of a run, its report.json, with the per-query values in the same folder.
        system: the system to compare in every run; by default the one that each run selected on dev.
        seeds: per run, the random seed of each stage.

    Raises:
        AceFinetuneError: for fewer than two runs, runs that share no query, or a run without that system.
    """
    if len(reports) < 2:
        raise AceFinetuneError("There is only one run; give two or more different runs to compare.")
    read = {name: read_report(path) for name, path in reports.items()}
    served = {name: system or str(report["serving"]["system"]) for name, report in read.items()}
    values = {name: PerQuery.read(per_query_path(path)) for name, path in reports.items()}
    for name, one in values.items():
        if served[name] not in one.values:
            raise AceFinetuneError(
                f"The run {name} has no system {served[name]!r}; name one of {', '.join(one.values)}."
            )
    first = next(iter(reports))
    rows = _shared_rows(list(values.values()))
    if not len(rows[0]):
        raise AceFinetuneError(f"The runs {', '.join(reports)} share no test query; compare runs on the same data.")
    measured: dict[str, Mapping[str, NDArray[np.float64]]] = {}
    for name, chosen in zip(reports, rows, strict=True):
        own = values[name].values[served[name]]
        measured[name] = {measure: own[measure][chosen] for measure in values[first].values[served[first]]}
    differing = _differing(read, served, values)
    groups = [values[first].groups[row] for row in rows[0]]
    comparisons = compare_measures(measured, base=first, groups=groups)
    return {
        "queries": len(rows[0]),
        "runs": [_run(name, read[name], served[name], values[name], measured[name]) for name in reports],
        "differences_to_first": {
            measure: {
                name: {**asdict(difference), "p_holm": found.adjusted[name], "effect_size": found.effect_sizes[name]}
                for name, difference in found.differences.items()
            }
            for measure, found in comparisons.items()
        },
        "spread": {
            measure: asdict(SeedVariance.of([float(measured[name][measure].mean()) for name in reports]))
            for measure in (() if differing else comparisons)
        },
        "varied": _varied(seeds or {}, list(reports)),
        "warnings": [*_warnings(read, values, len(rows[0])), *_not_averaged(differing)],
    }


def _differing(
    read: Mapping[str, Mapping[str, Any]], served: Mapping[str, str], values: Mapping[str, PerQuery]
) -> dict[str, list[str]]:
    """Return what has to be equal for a mean over the runs and is not, with the value of each run."""
    described = {
        "systems": list(served.values()),
        "base models": [str(report["baseline"]["model"]) for report in read.values()],
        "test sets": [f"{len(one.query_ids)} queries" for one in values.values()],
    }
    sets = {tuple(sorted(zip(one.query_ids, one.hashes, strict=True))) for one in values.values()}
    return {
        name: given
        for name, given in described.items()
        if len(set(given)) > 1 or (name == "test sets" and len(sets) > 1)
    }


def _not_averaged(differing: Mapping[str, list[str]]) -> list[str]:
    if not differing:
        return []
    listed = "; ".join(f"{name}: {', '.join(given)}" for name, given in differing.items())
    hint = "; compare one system of all runs with --system NAME" if set(differing) == {"systems"} else ""
    return [f"No mean over the runs is given, since they differ ({listed}){hint}."]


def _varied(seeds: Mapping[str, Mapping[str, int]], runs: Sequence[str]) -> dict[str, list[int]]:
    """Return the seeds in which the runs differ, by what they are of; nothing if a run does not record them."""
    if any(not seeds.get(run) for run in runs):
        return {}
    stages = seeds[runs[0]]
    found = {stage: [seeds[run].get(stage, 0) for run in runs] for stage in stages}
    return {stage: given for stage, given in found.items() if len(set(given)) > 1}


def _shared_rows(values: Sequence[PerQuery]) -> list[NDArray[np.int64]]:
    """Return per run the rows of the queries that all runs have with the same id and text, in the same order."""
    places = [{key: row for row, key in enumerate(zip(one.query_ids, one.hashes, strict=True))} for one in values]
    shared = [key for key in places[0] if all(key in other for other in places[1:])]
    return [np.array([held[key] for key in shared], np.int64) for held in places]


def _run(
    name: str,
    report: Mapping[str, Any],
    served: str,
    values: PerQuery,
    measured: Mapping[str, NDArray[np.float64]],
) -> dict[str, Any]:
    return {
        "run": name,
        "title": report["metadata"]["title"],
        "system": served,
        "base_model": report["baseline"]["model"],
        "test_queries": len(values.query_ids),
        "means": {measure: round(float(value.mean()), 6) for measure, value in measured.items()},
    }


def _warnings(read: Mapping[str, Mapping[str, Any]], values: Mapping[str, PerQuery], shared: int) -> list[str]:
    warnings = []
    sizes = {name: report["metadata"]["corpus_size"] for name, report in read.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        warnings.append(f"The runs have corpora of different sizes ({listed}), which affects their figures too.")
    for name, report in read.items():
        refit = (report["training"]["metrics"] or {}).get("refit") or {}
        if refit.get("ships") and refit.get("on") == "all":
            warnings.append(
                f"The model of {name} was trained on every query afterwards and is not compared: the figures are of "
                "the weights before that."
            )
    largest = max(len(one.query_ids) for one in values.values())
    if shared < largest:
        warnings.append(
            f"Only {shared} of {largest} test queries are in all runs, so their splits differ, and a run may have "
            "trained on test queries of another; compare runs with the same split."
        )
    return warnings
