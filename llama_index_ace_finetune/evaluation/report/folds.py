"""A report whose verdict rests on the test queries of several folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.evaluation.decision.folds import (
    FOLDS_RULE,
    MEASURES,
    SELECTED,
    UNTUNED,
    Fold,
    PooledFolds,
)
from llama_index_ace_finetune.evaluation.decision.sentence import Outcome, outcome_sentence
from llama_index_ace_finetune.evaluation.decision.verdict import ON_SYNTHETIC, on_refit
from llama_index_ace_finetune.evaluation.report.per_query import PerQuery, per_query_path
from llama_index_ace_finetune.evaluation.report.report import read_report
from llama_index_ace_finetune.evaluation.result import BASE, MEASURE
from llama_index_ace_finetune.evaluation.stats.comparison import compare_measures
from llama_index_ace_finetune.utils.content_errors import of_content
from llama_index_ace_finetune.utils.file_errors import Refusal

_REPORT = Refusal("The report", "make the run again with --force")


def read_fold(report: Path) -> Fold:
    """Return the fold of a report and the values of its queries beside it.

    Raises:
        AceFinetuneError: if one of them is missing or damaged.
    """
    content, rows = read_report(report), PerQuery.read(per_query_path(report))
    with of_content(report, _REPORT):
        untuned, _ = content["verdict"]["instead"]
        return Fold(
            query_ids=rows.query_ids,
            groups=rows.groups,
            values=rows.values,
            selected=content["verdict"]["system"]["name"],
            untuned=untuned["serving"]["system"],
            trained=frozenset(system["name"] for system in content["systems"] if system["trained"]),
        )


def with_folds(report: Mapping[str, Any], folds: Sequence[Fold]) -> dict[str, Any]:
    """Return a report with the results of the folds, of which the first is its own, and the verdict that they give.

    The system of the report is served, unless its own test queries or those of all folds reject it; see `FOLDS_RULE`.
    """
    pooled = PooledFolds.of(folds)
    verdict, serving, instead = report["verdict"], report["serving"], _replacement(report, pooled)
    changes: dict[str, Any] = {
        "sentence": _sentence(report, pooled, instead),
        "rule": f"{verdict['rule']} {FOLDS_RULE}",
    }
    if verdict["against_base"] is not None:
        against_base = pooled.comparisons[MEASURE].differences[SELECTED]
        compared = [against_base] + ([pooled.against_untuned] if verdict["ship_tuned"] else [])
        changes |= {
            "best_untuned": pooled.best_untuned,
            "against_base": asdict(against_base),
            "against_untuned": asdict(pooled.against_untuned),
            "confirmed": all(one.is_gain for one in compared) and not _is_rejected(report),
        }
    return {
        **report,
        "verdict": {**verdict, **changes},
        "serving": instead["serving"] if instead else serving,
        "folds": {**_described(pooled), "first": {"verdict": verdict, "serving": serving}},
    }


def without_folds(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report with the verdict of its own test queries, as it was before `with_folds`."""
    rest = dict(report)
    first: dict[str, Any] = rest.pop("folds", {"first": {}})["first"]
    return rest | first


def _is_rejected(report: Mapping[str, Any]) -> bool:
    """Whether the report's own test queries reject the system that dev selected."""
    return bool(report["serving"]["system"] != report["verdict"]["system"]["name"])


def _replacement(report: Mapping[str, Any], pooled: PooledFolds) -> Mapping[str, Any] | None:
    """Return what the folds make a retriever serve instead; None if they reject nothing.

    A loss against the base brings the base back. A loss against another system without training brings the untuned
    system that dev selected, or the base, if it is ahead.
    """
    verdict = report["verdict"]
    untuned, base = verdict["instead"]
    if report["serving"]["system"] == BASE:
        return None
    if pooled.comparisons[MEASURE].differences[SELECTED].high < 0:
        return dict(base)
    if not verdict["ship_tuned"] or pooled.against_untuned.high >= 0 or _is_rejected(report):
        return None
    mean = pooled.mean(SELECTED)
    means = ((untuned, pooled.mean(UNTUNED)), (base, pooled.mean(BASE)))
    return next((dict(one) for one, value in means if value > mean), None)


def _sentence(report: Mapping[str, Any], pooled: PooledFolds, instead: Mapping[str, Any] | None) -> str:
    verdict = report["verdict"]
    count, queries = len(pooled.folds), len(pooled.groups)
    against_base = pooled.comparisons[MEASURE].differences[SELECTED]
    if verdict["against_base"] is None or (_is_rejected(report) and not instead):
        means = f"{MEASURE} {pooled.mean(BASE):.3f} -> {pooled.mean(SELECTED):.3f}"
        return (
            f"{verdict['sentence']} In {count} folds, training and selecting likewise gives {means} on all {queries} "
            f"queries, {against_base} against the base model."
        )
    system, selection = verdict["system"], report["training"]["selection"]
    outcome = Outcome(
        described=system["description"],
        embedding=system["embedding"],
        instead=instead["description"] if instead else "",
        tuned=selection is None or selection.get("shipped") == "finetuned",
        best_untuned=pooled.best_untuned,
        means={name: pooled.mean(name) for name in (BASE, pooled.best_untuned)},
        mean=pooled.mean(SELECTED),
        against_base=against_base,
        against_untuned=pooled.against_untuned,
        queries=f"on all {queries} queries, in {count} folds",
    )
    head = ON_SYNTHETIC if verdict["sentence"].startswith(ON_SYNTHETIC) else ""
    refit = shipped_refit(report["training"])
    return (
        head + outcome_sentence(outcome) + (on_refit(refit) if refit and verdict["ship_tuned"] and not instead else "")
    )


def _described(pooled: PooledFolds) -> dict[str, Any]:
    """Return the figures of all folds together, and of each."""
    named = dict.fromkeys((BASE, pooled.best_untuned, SELECTED))
    return {
        "k": len(pooled.folds),
        "queries": len(pooled.groups),
        "groups": pooled.comparisons[MEASURE].groups,
        "measures": list(MEASURES),
        "note": FOLDS_RULE,
        "systems": [
            {
                "name": name,
                "means": {measure: round(pooled.mean(name, measure), 6) for measure in MEASURES},
                "difference_to_base": {
                    measure: asdict(one.differences[name])
                    for measure, one in pooled.comparisons.items()
                    if name in one.differences
                },
            }
            for name in named
        ],
        "folds": [_of_fold(number, fold, list(named)) for number, fold in enumerate(pooled.folds, 1)],
    }


def _of_fold(number: int, fold: Fold, names: Sequence[str]) -> dict[str, Any]:
    roles = fold.by_role
    compared = compare_measures({name: roles[name] for name in (BASE, SELECTED)}, base=BASE, groups=fold.groups)
    return {
        "fold": number,
        "queries": len(fold.query_ids),
        "selected": fold.selected,
        "means": {
            name: {measure: round(float(roles[name][measure].mean()), 6) for measure in MEASURES} for name in names
        },
        "difference_to_base": {measure: asdict(compared[measure].differences[SELECTED]) for measure in MEASURES},
    }
