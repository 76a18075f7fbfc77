"""Build, write and read a report: report.json, report.html and the per-query values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.labels import labels_of
from llama_index_ace_finetune.datasets.oracle import UpperBound
from llama_index_ace_finetune.datasets.types import DIFFICULTIES
from llama_index_ace_finetune.errors import AceFinetuneError, quoted
from llama_index_ace_finetune.evaluation.choosing.choose import Choice
from llama_index_ace_finetune.evaluation.decision.verdict import Verdict
from llama_index_ace_finetune.evaluation.fusion_weights import FusionChoice
from llama_index_ace_finetune.evaluation.metrics.measures import MEASURES
from llama_index_ace_finetune.evaluation.report.choice import describe_choice
from llama_index_ace_finetune.evaluation.report.environment import describe_environment
from llama_index_ace_finetune.evaluation.report.html import render_html
from llama_index_ace_finetune.evaluation.report.known import describe_known
from llama_index_ace_finetune.evaluation.report.learning_curve import LearningCurve
from llama_index_ace_finetune.evaluation.report.per_query import per_query_path, write_per_query
from llama_index_ace_finetune.evaluation.report.rank_changes import (
    first_relevant_ranks,
    largest_changes,
    rank_change_matrix,
)
from llama_index_ace_finetune.evaluation.result import BASE, BM25, MEASURE, TUNED, Evaluation
from llama_index_ace_finetune.evaluation.slices import measure_slices, slice_queries
from llama_index_ace_finetune.evaluation.systems import System
from llama_index_ace_finetune.run_folder import MAX_REPORT_BYTES
from llama_index_ace_finetune.utils.atomic import write_json, write_text
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.old_settings import current_training
from llama_index_ace_finetune.utils.read_json import read_json_object

SCHEMA_VERSION = 3
_REPORT = Refusal("The report", "evaluate again")


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """The context of the figures in a report.

    Attributes:
        title: of the page.
        base_model: name of the base model.
        tuned_model: folder of the tuned model.
        split: facts about the split: counts, settings, notes, hash of its ids.
        data: facts about the data: name, format, sizes, repairs.
        training: the training record of the model: selection, metrics, config, history.
        learning_curve: the learning curve, if one was measured.
        ceiling: upper bound of any ranking if each row counted only its own document as relevant.
        seen_answers: ids of documents that the model was trained on; None if unknown.
        warnings: further notes for the reader.
        command: the command that reproduces the report.
        run: name of the run folder, for the commands of the next steps; empty if there is none.
    """

    title: str
    base_model: str
    tuned_model: str
    split: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    learning_curve: LearningCurve | None = None
    ceiling: UpperBound | None = None
    seen_answers: Collection[str] | None = None
    warnings: tuple[str, ...] = ()
    command: str = ""
    run: str = ""


def build_report(evaluation: Evaluation, verdict: Verdict, context: ReportContext) -> dict[str, Any]:
    """Return the report as JSON values: the summary fields of the original, and further ones.

    `recall@k` is the original's name of Success@k, the fraction of queries with a relevant document among the first k.
    """
    summaries = {
        "baseline": _summary(evaluation, BASE, context.base_model),
        "finetuned": _summary(evaluation, TUNED, context.tuned_model),
    }
    # If the base is kept, show what the tuned model would have changed.
    shown = TUNED if verdict.system.name == BASE else verdict.system.name
    ranks = {
        name: first_relevant_ranks(evaluation.system(name).rankings, evaluation.data.relevant) for name in (BASE, shown)
    }
    return {
        "metadata": {
            "schema_version": SCHEMA_VERSION,
            "evaluation_date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "total_queries_evaluated": len(evaluation.data.queries),
            "groups": evaluation.comparisons[MEASURE].groups,
            "corpus_size": len(evaluation.data.corpus),
            "title": context.title,
            "measures": "recall@k means Success@k: a relevant document among the first k; mrr is MRR@10",
            "ties": "ties are ranked by document id",
            "command": context.command,
            "run": context.run,
        },
        **summaries,
        "improvement": {
            name: _relative(summaries["finetuned"][name], summaries["baseline"][name])
            for name in ("recall@1", "recall@5", "mrr")
        },
        "measures": [str(measure) for measure in MEASURES],
        "systems": [_system(evaluation, system) for system in evaluation.systems],
        "fusion": {
            "tuned": _fusion(evaluation.fusion),
            "base": _fusion(evaluation.base_fusion),
            "convex": _fusion(evaluation.convex_fusion),
        },
        "verdict": {
            **asdict(verdict),
            "system": {**asdict(verdict.system), "description": str(verdict.system)},
            "warnings": [*verdict.warnings, *context.warnings],
        },
        "serving": dict(verdict.serving),
        "choice": describe_choice(evaluation, _choice_of(evaluation, verdict)),
        "known": describe_known(
            evaluation, (BM25, BASE, TUNED, verdict.system.name, verdict.serving["system"], verdict.best_untuned)
        ),
        "slices": _slices(evaluation, shown, context.seen_answers),
        "ceiling": asdict(context.ceiling) if context.ceiling else None,
        "movement": {"before": BASE, "after": shown, **rank_change_matrix(ranks[BASE], ranks[shown])},
        "changes": {"before": BASE, "after": shown, **largest_changes(evaluation, before=BASE, after=shown)},
        "training": {**dict.fromkeys(("selection", "metrics", "config", "history")), **context.training},
        "learning_curve": asdict(context.learning_curve) if context.learning_curve else None,
        "data": {"repairs": {}, **context.data},
        "split": {**dict.fromkeys(("counts", "settings", "notes", "sha256")), **context.split},
        "environment": describe_environment(),
    }


def write_report(report: dict[str, Any], json_path: Path, *, evaluation: Evaluation | None = None) -> tuple[Path, Path]:
    """Write the report to `json_path`, and as a page with the suffix `.html` next to it; return both paths.

    If the evaluation is given, the per-query values are written too (`per_query_path`).
    """
    html_path = json_path.with_suffix(".html")
    write_json(json_path, report)
    write_text(html_path, render_html(report))
    if evaluation is not None:
        write_per_query(evaluation, per_query_path(json_path))
    return json_path, html_path


def read_report(path: Path) -> dict[str, Any]:
    """Read a report written by `write_report`.

    Raises:
        AceFinetuneError: if the file is missing, corrupt, or of another version.
    """
    if not path.is_file():
        raise AceFinetuneError(f"The report {str(path)!r} does not exist; give a finished run, or evaluate its model.")
    report = read_json_object(path, _REPORT, max_bytes=MAX_REPORT_BYTES)
    metadata = report.get("metadata")
    found = metadata.get("schema_version") if isinstance(metadata, dict) else None
    if found == 2:
        return _current(report)
    if found != SCHEMA_VERSION:
        raise AceFinetuneError(
            f"The report {str(path)!r} has version {quoted(found)}, not {SCHEMA_VERSION}; evaluate the model again."
        )
    return report


def _current(report: dict[str, Any]) -> dict[str, Any]:
    """Convert a report of version 2 to `SCHEMA_VERSION`: margins changed their meaning."""
    report = {**report, "metadata": {**report["metadata"], "schema_version": SCHEMA_VERSION}}
    training = report.get("training")
    if isinstance(training, dict) and isinstance(training.get("config"), dict):
        report["training"] = {**training, "config": current_training(training["config"])}
    return report


def _choice_of(evaluation: Evaluation, verdict: Verdict) -> Choice:
    """The choice that the verdict is about: of all systems, or, if training kept the base, of the untuned ones."""
    choice = evaluation.choice
    return choice if choice.system_name == verdict.system.name else evaluation.untuned_choice


def _system(evaluation: Evaluation, system: System) -> dict[str, Any]:
    name = system.name
    latency = evaluation.latency.get(name)
    differences = {}
    for measure, comparison in evaluation.comparisons.items():
        if name in comparison.differences:
            differences[measure] = {
                **asdict(comparison.differences[name]),
                "p_holm": comparison.adjusted[name],
                "effect_size": comparison.effect_sizes[name],
            }
    return {
        "name": name,
        "kind": system.kind,
        "model": system.model,
        "fusion": system.fusion or None,
        "weights": list(system.weights) if system.weights else None,
        "legs": dict(system.settings.weights) if system.settings else None,
        "trained": system.trained,
        "means": {measure: round(evaluation.mean(name, measure), 6) for measure in evaluation.values[name]},
        "difference_to_base": differences,
        "mean_cosine": _mean_cosine(system),
        "latency": asdict(latency) if latency else None,
    }


def _mean_cosine(system: System) -> float | None:
    return None if system.cosine is None else round(float(np.nanmean(system.cosine)), 6)


def _fusion(choice: FusionChoice) -> dict[str, Any]:
    return {
        "weights": list(choice.weights),
        "reason": choice.reason,
        "dev_curve": {str(weight): value for weight, value in choice.curve.items()},
    }


def _slices(evaluation: Evaluation, shown: str, seen_answers: Collection[str] | None) -> list[dict[str, Any]]:
    values = {name: evaluation.values[name][MEASURE] for name in dict.fromkeys((BM25, BASE, TUNED, shown))}
    values["difference"] = values[shown] - values[BASE]
    data = evaluation.data
    parts = slice_queries(data, metadata=evaluation.metadata, seen_answers=seen_answers)
    return [
        {
            "dimension": part.slice.dimension,
            "name": part.slice.name,
            "queries": part.queries,
            "groups": part.groups,
            "small": part.slice.small,
            "means": {name: asdict(interval) for name, interval in part.means.items()},
        }
        for part in measure_slices(parts, values, groups=data.groups)
    ]


def _summary(evaluation: Evaluation, name: str, model: str) -> dict[str, Any]:
    everything = np.ones(len(evaluation.data.queries), bool)
    return {
        "model": model,
        **_means(evaluation, name, everything),
        "avg_similarity": _mean_cosine(evaluation.system(name)) or 0.0,
        "by_difficulty": _by(evaluation, name, "difficulty"),
        "by_category": _by(evaluation, name, "query_category"),
    }


def _means(evaluation: Evaluation, name: str, chosen: NDArray[np.bool_]) -> dict[str, float]:
    values = evaluation.values[name]
    names = {"recall@1": "Success@1", "recall@5": "Success@5", "mrr": MEASURE}
    return {ours: round(float(values[measure][chosen].mean()), 6) for ours, measure in names.items()}


def _by(evaluation: Evaluation, name: str, metadata_field: str) -> dict[str, Any]:
    found = (evaluation.metadata.get(query_id, {}).get(metadata_field) for query_id in evaluation.data.query_ids)
    labels = [labels_of(value) for value in found]
    slices = {}
    for label in sorted({label for held in labels for label in held}, key=_label_order):
        chosen = np.array([label in held for held in labels])
        slices[label] = {**_means(evaluation, name, chosen), "count": int(chosen.sum())}
    return slices


def _label_order(label: str) -> tuple[int, str]:
    """Sort difficulties from easy to hard, other labels by name."""
    return (DIFFICULTIES.index(label) if label in DIFFICULTIES else len(DIFFICULTIES), label)


def _relative(new: float, old: float) -> float:
    """Relative change in percent, as in the original; 0 if the old value is 0."""
    return round((new - old) / old * 100, 2) if old else 0.0
