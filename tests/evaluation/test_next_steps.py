"""The steps after an evaluation, and why a gain is not confirmed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from llama_index_ace_finetune.evaluation.decision.verdict import reach_verdict
from llama_index_ace_finetune.evaluation.report.next_steps import next_steps, why_not_confirmed
from llama_index_ace_finetune.evaluation.report.report import ReportContext, build_report
from llama_index_ace_finetune.evaluation.result import BASE, HYBRID_BASE, TUNED, Evaluation

Make = Callable[..., Evaluation]


def report_of(evaluation: Evaluation, *, shipped: str = "finetuned") -> dict[str, Any]:
    context = ReportContext(title="demo", base_model="base-model", tuned_model="tuned-model")
    return build_report(evaluation, reach_verdict(evaluation, {"shipped": shipped}), context)


def test_confirmed_gain_leads_to_search_and_llamaindex(evaluation: Make) -> None:
    report = report_of(evaluation({BASE: [2] * 20, TUNED: [1] * 20}))
    first, second = next_steps(report, "my run")
    assert first.command == "ace-finetune search 'my run' \"query 0\""
    assert second.command == "FineTunedHybridRetriever.from_run('my run')"
    assert why_not_confirmed(report) == ""


@pytest.mark.parametrize(
    ("ranks", "why"),
    [
        ({BASE: [2] * 3, TUNED: [1] * 3}, "better than the base model (not significant, p = .273 is above .05)"),
        ({BASE: [4] * 20, TUNED: [1] * 20, HYBRID_BASE: [1] * 20}, "better than base + BM25 (no gain)"),
    ],
)
def test_unconfirmed_gain_says_why(evaluation: Make, ranks: dict[str, list[int]], why: str) -> None:
    report = report_of(evaluation(ranks))
    assert why_not_confirmed(report) == f"test does not confirm that it is {why}"
    assert next_steps(report, "my-run")[0].purpose.endswith(f"label more queries: {why_not_confirmed(report)}")


def test_kept_base_leads_to_more_data_and_larger_models(evaluation: Make) -> None:
    report = report_of(evaluation({BASE: [1] * 20}), shipped="base")
    assert why_not_confirmed(report).startswith("the system to serve needs no tuned model: the base model")
    purposes = [step.purpose for step in next_steps(report, "my-run")]
    assert any("--curve" in one for one in purposes)
    assert any("--also" in one for one in purposes)


@pytest.mark.parametrize(
    "query", ['say "hi" `id` $(id)', "it's!", "two\nlines", "long " * 20, "\x1b[2J", "日本語 query"]
)
def test_example_query_is_one_safe_word_of_a_shell(evaluation: Make, query: str) -> None:
    made = evaluation({BASE: [2] * 2, TUNED: [1] * 2}, texts=[query] * 2)
    command = next_steps(report_of(made), "my-run")[-1 - 1].command
    *_, word = shlex.split(command)
    assert word == (query if query.isprintable() and len(query) <= 60 else "your query")
    assert "\x1b" not in command
    if "$" in query or "!" in query:
        assert command.endswith(shlex.quote(query))
