"""What to do after an evaluation, by its verdict."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference

_FEW = 300
_QUERY = "your query"
_PLAIN = re.compile(r"[^\W\d_]+([ ,'?-]+[^\W\d_]+)*\??")


@dataclass(frozen=True, slots=True)
class NextStep:
    """A step: what it is for, and the command, or the line of Python, that does it (may be empty)."""

    purpose: str
    command: str = ""


def next_steps(report: Mapping[str, Any], run: str) -> list[NextStep]:
    """Return the steps that follow from a report, the most useful first.

    Args:
        report: as JSON values.
        run: the run folder, as it is typed in a command.
    """
    verdict, folder = report["verdict"], shlex.quote(run)
    steps = [
        NextStep("search with the system that the verdict serves", f"ace-finetune search {folder} {_example(report)}"),
        NextStep("use it in LlamaIndex", f"FineTunedHybridRetriever.from_run({run!r})"),
    ]
    if verdict["ship_tuned"] and not verdict["confirmed"]:
        steps.insert(0, NextStep(f"before you rely on it, label more queries: {why_not_confirmed(report)}"))
    if few := _few_queries(report):
        steps.insert(0, NextStep(few))
    if not verdict["ship_tuned"]:
        steps.append(
            NextStep("find out whether more training queries would help: evaluate the model with --curve 100,300,1000")
        )
        steps.append(NextStep("compare with a larger base model: evaluate the model with --also MODEL"))
    return steps


def why_not_confirmed(report: Mapping[str, Any]) -> str:
    """Return why test does not confirm a gain of the tuned model; empty if it does."""
    verdict = report["verdict"]
    if not verdict["ship_tuned"]:
        return f"the system to serve needs no tuned model: {verdict['system']['description']}"
    for other, field in (("the base model", "against_base"), (verdict["best_untuned"], "against_untuned")):
        found = verdict[field] and PairedDifference.from_dict(verdict[field])
        if found and not found.is_gain:
            return f"test does not confirm that it is better than {other} ({found.not_a_gain})"
    return ""


def _few_queries(report: Mapping[str, Any]) -> str:
    """Return what to do if a run has few queries and its interval includes zero; empty if it has not."""
    found, counts = report["verdict"]["against_base"], report["split"]["counts"] or {}
    total = sum(part["queries"] for part in counts.values() if isinstance(part, Mapping))
    tested = report["metadata"]["total_queries_evaluated"]
    if not report["metadata"].get("run") or report.get("folds") or not tested < total < _FEW or not found:
        return ""
    if not found["low"] <= 0 <= found["high"]:
        return ""
    return (
        f"test all {total} queries instead of {tested}, by adding --folds 5 to the command of the run, since the "
        "interval includes zero"
    )


def _example(report: Mapping[str, Any]) -> str:
    """A test query that gained and can be typed in one short line; one in plain words if there is one."""
    gained = [str(row["query"]) for row in report["changes"]["gains"]]
    short = [query for query in gained if len(query) <= 60 and query.isprintable()]
    query = next((one for one in short if _PLAIN.fullmatch(one)), short[0] if short else _QUERY)
    return shlex.quote(query) if set(query) & set('"$`\\!') else f'"{query}"'
