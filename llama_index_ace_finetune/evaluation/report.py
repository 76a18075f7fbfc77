"""report.json and report.html."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from llama_index_ace_finetune.atomic import write_json, write_text
from llama_index_ace_finetune.datasets.difficulty import DIFFICULTIES
from llama_index_ace_finetune.evaluation.evaluate import BASE, TUNED, Evaluation
from llama_index_ace_finetune.evaluation.report_html import render_html
from llama_index_ace_finetune.evaluation.verdict import MEASURE, Verdict

SCHEMA_VERSION = 1
_PACKAGES = ("torch", "sentence-transformers", "transformers", "llama-index-core", "qdrant-client", "numpy")
_EXAMPLES = 10


@dataclass(frozen=True)
class ReportContext:
    """What the report says about the run besides the figures."""

    title: str
    base_model: str
    tuned_model: str
    split_counts: Mapping[str, Any]
    split_notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    command: str = ""


def build_report(evaluation: Evaluation, verdict: Verdict, context: ReportContext) -> dict[str, Any]:
    """Return the report as JSON values: the original's summary fields first, ours beside them.

    `recall@k` is the original's name for what is computed as Success@k: the share of queries with a right answer
    among the first k.
    """
    summaries = {
        "baseline": _summary(evaluation, BASE, context.base_model),
        "finetuned": _summary(evaluation, TUNED, context.tuned_model),
    }
    return {
        "metadata": {
            "schema_version": SCHEMA_VERSION,
            "evaluation_date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "total_queries_evaluated": len(evaluation.data.queries),
            "corpus_size": len(evaluation.data.corpus),
            "title": context.title,
            "measures": "recall@k means Success@k: a right answer among the first k; mrr is MRR@10",
            "command": context.command,
        },
        **summaries,
        "improvement": {
            name: _relative(summaries["finetuned"][name], summaries["baseline"][name])
            for name in ("recall@1", "recall@5", "mrr")
        },
        "systems": [
            {
                "name": system.name,
                "kind": system.kind,
                "model": system.model,
                "weights": list(system.weights) if system.weights else None,
                "means": {
                    name: round(evaluation.mean(system.name, name), 6) for name in evaluation.values[system.name]
                },
                "difference_to_base": {
                    name: asdict(difference) for name, difference in evaluation.differences.get(system.name, {}).items()
                },
            }
            for system in evaluation.systems
        ],
        "fusion": {
            "weights": list(evaluation.fusion.weights),
            "reason": evaluation.fusion.reason,
            "dev_curve": {str(weight): value for weight, value in evaluation.fusion.curve.items()},
        },
        "verdict": {**asdict(verdict), "warnings": [*verdict.warnings, *context.warnings]},
        "split": {"counts": dict(context.split_counts), "notes": list(context.split_notes)},
        "changes": _changes(evaluation),
        "environment": _environment(),
    }


def write_report(report: dict[str, Any], json_path: Path) -> tuple[Path, Path]:
    """Write the report to `json_path`, and as a page beside it with the ending `.html`; return both paths."""
    html_path = json_path.with_suffix(".html")
    write_json(json_path, report)
    write_text(html_path, render_html(report))
    return json_path, html_path


def _summary(evaluation: Evaluation, name: str, model: str) -> dict[str, Any]:
    everything = np.ones(len(evaluation.data.queries), bool)
    system = evaluation.system(name)
    cosine = system.cosine if system.cosine is not None else np.array([np.nan])
    return {
        "model": model,
        **_means(evaluation, name, everything),
        "avg_similarity": round(float(np.nanmean(cosine)), 6),
        "by_difficulty": _slices(evaluation, name, "difficulty"),
        "by_category": _slices(evaluation, name, "query_category"),
    }


def _means(evaluation: Evaluation, name: str, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, float]:
    values = evaluation.values[name]
    names = {"recall@1": "Success@1", "recall@5": "Success@5", "mrr": MEASURE}
    return {ours: round(float(values[measure][chosen].mean()), 6) for ours, measure in names.items()}


def _slices(evaluation: Evaluation, name: str, field: str) -> dict[str, Any]:
    labels = [evaluation.metadata[query_id].get(field) for query_id in evaluation.data.query_ids]
    slices = {}
    for label in sorted({str(label) for label in labels if label is not None}, key=_slice_order):
        chosen = np.array([str(other) == label for other in labels])
        slices[label] = {**_means(evaluation, name, chosen), "count": int(chosen.sum())}
    return slices


def _slice_order(label: str) -> tuple[int, str]:
    """Difficulties in their own order, other labels by name."""
    return (DIFFICULTIES.index(label) if label in DIFFICULTIES else len(DIFFICULTIES), label)


def _relative(new: float, old: float) -> float:
    """Relative percent, as the original counts it; 0 where there is nothing to compare with."""
    return round((new - old) / old * 100, 2) if old else 0.0


def _changes(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """The queries that moved most between base and tuned, with their texts."""
    base, tuned = evaluation.system(BASE), evaluation.system(TUNED)
    gain = evaluation.values[TUNED][MEASURE] - evaluation.values[BASE][MEASURE]
    order = np.argsort(-gain, kind="stable")
    gains = [int(row) for row in order[:_EXAMPLES] if gain[row] > 0]
    losses = [int(row) for row in order[::-1][:_EXAMPLES] if gain[row] < 0]

    def rows(chosen: list[int]) -> list[dict[str, Any]]:
        data = evaluation.data
        return [
            {
                "query_id": data.query_ids[row],
                "query": data.queries[row],
                "answer": data.corpus[int(data.relevant[row][0])],
                "base_rank": _rank(base.rankings[row], data.relevant[row]),
                "tuned_rank": _rank(tuned.rankings[row], data.relevant[row]),
                "first_hit": data.corpus[int(tuned.rankings[row][0])],
            }
            for row in chosen
        ]

    return {"gains": rows(gains), "losses": rows(losses)}


def _rank(ranking: np.ndarray[Any, np.dtype[np.int32]], relevant: np.ndarray[Any, np.dtype[np.int64]]) -> int | None:
    places = np.flatnonzero(np.isin(ranking, relevant))
    return int(places[0]) + 1 if len(places) else None


def _environment() -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "machine": platform.machine(), "packages": versions}
