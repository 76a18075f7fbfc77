"""Folds: results pooled by hand, and the verdict that they give."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.decision.folds import FOLDS_RULE, SELECTED, UNTUNED, Fold, PooledFolds
from llama_index_ace_finetune.evaluation.decision.verdict import reach_verdict
from llama_index_ace_finetune.evaluation.report.folds import read_fold, with_folds, without_folds
from llama_index_ace_finetune.evaluation.report.html import render_html
from llama_index_ace_finetune.evaluation.report.next_steps import next_steps
from llama_index_ace_finetune.evaluation.report.per_query import write_per_query
from llama_index_ace_finetune.evaluation.report.plain_sentence import plain_sentence
from llama_index_ace_finetune.evaluation.report.report import ReportContext, build_report
from llama_index_ace_finetune.evaluation.result import BASE, BM25, TUNED, Evaluation
from llama_index_ace_finetune.evaluation.stats.paired import paired_difference
from llama_index_ace_finetune.utils.atomic import write_json

Make = Callable[..., Evaluation]
MRR = "MRR@10"


def fold(number: int, selected: str = TUNED, untuned: str = BASE, **ranks: Sequence[int]) -> Fold:
    """A fold whose relevant documents have these ranks, by system; none is in another fold."""
    count = len(ranks[BASE])
    values = {
        name: {
            "Success@1": np.array([float(rank == 1) for rank in given]),
            "Success@5": np.array([float(rank <= 5) for rank in given]),
            MRR: np.array([1 / rank for rank in given]),
        }
        for name, given in ranks.items()
    }
    ids = [f"{number}-{place}" for place in range(count)]
    return Fold(ids, [f"m{one}" for one in ids], values, selected, untuned, frozenset({TUNED}))


def test_pooled_means_and_differences_by_hand() -> None:
    one = fold(1, base=[2, 2], tuned=[1, 2], BM25=[4, 4])
    two = fold(2, selected=BASE, untuned=BM25, base=[4, 10, 5], tuned=[1, 1, 1], BM25=[2, 5, 5])
    pooled = PooledFolds.of([one, two])
    # The second fold's own selection is the base, however good its tuned model is.
    assert pooled.mean(SELECTED) == pytest.approx((1 + 0.5 + 0.25 + 0.1 + 0.2) / 5)
    assert pooled.mean(BASE) == pytest.approx((0.5 + 0.5 + 0.25 + 0.1 + 0.2) / 5)
    assert pooled.mean(UNTUNED) == pytest.approx((0.5 + 0.5 + 0.5 + 0.2 + 0.2) / 5)
    assert pooled.mean(BM25) == pytest.approx((0.25 + 0.25 + 0.5 + 0.2 + 0.2) / 5)
    assert TUNED not in pooled.values
    assert pooled.best_untuned == UNTUNED
    found = pooled.comparisons[MRR].differences[SELECTED]
    assert (found.wins, found.ties, found.losses) == (1, 4, 0)
    assert found == paired_difference(np.array([1, 0.5, 0.25, 0.1, 0.2]), np.array([0.5, 0.5, 0.25, 0.1, 0.2]))
    assert pooled.mean(SELECTED, "Success@1") == pytest.approx(1 / 5)
    assert pooled.mean(SELECTED, "Success@5") == pytest.approx(4 / 5)


def test_folds_with_a_query_in_common_are_refused() -> None:
    one = fold(1, base=[2], tuned=[1])
    for folds in ([one], [one, one]):
        with pytest.raises(AceFinetuneError, match="cannot be pooled"):
            PooledFolds.of(folds)


def report_of(evaluation: Evaluation, shipped: str = "finetuned") -> dict[str, Any]:
    selection = {"shipped": shipped, "share": None}
    counts = {"train": {"queries": 60}, "dev": {"queries": 40}, "test": {"queries": len(evaluation.data.queries)}}
    context = ReportContext(
        title="demo",
        base_model="b",
        tuned_model="t",
        run="my-run",
        split={"counts": {**counts, "components": 9}},
        training={"selection": selection},
    )
    report: dict[str, Any] = json.loads(
        json.dumps(build_report(evaluation, reach_verdict(evaluation, selection), context))
    )
    return report


def saved(report: dict[str, Any], evaluation: Evaluation, folder: Path) -> Fold:
    folder.mkdir(exist_ok=True)
    write_json(folder / "report.json", report)
    write_per_query(evaluation, folder / "report.per_query.jsonl")
    return read_fold(folder / "report.json")


def dev(tuned: int, base: int = 2) -> dict[str, list[int]]:
    return {BASE: [base] * 40, TUNED: [tuned] * 40, BM25: [9] * 40}


@pytest.mark.usefixtures("without_plots")
def test_a_gain_that_one_part_cannot_show_is_shown_by_all(evaluation: Make, tmp_path: Path) -> None:
    made = evaluation({BASE: [2] * 3, TUNED: [1] * 3, BM25: [9] * 3}, dev=dev(1))
    report = report_of(made)
    assert report["verdict"]["sentence"].startswith("SHIP WITH CARE")
    assert next_steps(report, "my-run")[0].purpose.startswith("before you rely on it")
    more = fold(2, base=[3] * 20, tuned=[1] * 20, BM25=[9] * 20)
    pooled = with_folds(report, [saved(report, made, tmp_path), more])
    verdict, folds = pooled["verdict"], pooled["folds"]
    assert verdict["confirmed"]
    assert verdict["sentence"].startswith("SHIP THE TUNED MODEL (DENSE ONLY): MRR@10 0.355 -> 1.000, +0.645 (95%")
    assert verdict["sentence"].endswith("on all 23 queries, in 2 folds.")
    assert verdict["rule"].endswith(FOLDS_RULE)
    assert pooled["serving"] == report["serving"]
    assert [one["queries"] for one in folds["folds"]] == [3, 20]
    assert folds["folds"][1]["means"][SELECTED][MRR] == 1.0
    assert folds["folds"][1]["difference_to_base"][MRR]["mean"] == pytest.approx(2 / 3)
    assert (
        plain_sentence(pooled)
        == "A relevant document comes first for 23 of 23 queries; before, with the base model: 0."
    )
    page = render_html(pooled)
    assert 'id="folds"' in page
    assert "Nadeau and Bengio 2003" in page
    assert without_folds(pooled) == report == without_folds(report)
    report["training"]["metrics"] = {"refit": {"ships": True, "on": "all"}}
    refitted = with_folds(report, [saved(report, made, tmp_path), more])["verdict"]["sentence"]
    assert refitted.endswith("was then trained on every query and was not measured itself.")


def test_a_loss_over_all_folds_brings_the_base_back(evaluation: Make, tmp_path: Path) -> None:
    made = evaluation({BASE: [2] * 3, TUNED: [1] * 3}, dev=dev(1))
    report = report_of(made)
    assert report["serving"]["system"] == TUNED
    worse = fold(2, base=[1] * 30, tuned=[2] * 30)
    pooled = with_folds(report, [saved(report, made, tmp_path), worse])
    assert pooled["verdict"]["sentence"].startswith("DO NOT SHIP: the tuned model (dense only) won on dev but is worse")
    assert pooled["verdict"]["sentence"].endswith("served instead: the base model (dense only).")
    assert (pooled["serving"]["system"], pooled["serving"]["vectors"]) == (BASE, "base")
    assert not pooled["verdict"]["confirmed"]
    assert (
        plain_sentence(pooled)
        == "The base model is served as it is: a relevant document comes first for 30 of 33 queries."
    )
    assert without_folds(pooled) == report


def test_a_better_system_without_training_is_served_instead(evaluation: Make, tmp_path: Path) -> None:
    made = evaluation({BASE: [4] * 3, TUNED: [2] * 3, BM25: [2] * 3}, dev={**dev(1, base=4), BM25: [2] * 40})
    report = report_of(made)
    better = fold(2, untuned=BM25, base=[4] * 30, tuned=[2] * 30, BM25=[1] * 30)
    pooled = with_folds(report, [saved(report, made, tmp_path), better])
    assert pooled["verdict"]["sentence"].startswith("DO NOT SHIP: BM25, which needs no training, is better")
    assert pooled["verdict"]["sentence"].endswith("in 2 folds; served instead: BM25 only.")
    assert pooled["serving"]["system"] == BM25


def test_folds_do_not_confirm_what_the_own_test_part_rejects(evaluation: Make, tmp_path: Path) -> None:
    made = evaluation({BASE: [1] * 20, TUNED: [2] * 20}, dev=dev(1))
    report = report_of(made)
    assert report["serving"]["system"] == BASE
    better = fold(2, base=[9] * 90, tuned=[1] * 90)
    pooled = with_folds(report, [saved(report, made, tmp_path), better])
    assert pooled["verdict"]["sentence"].startswith(report["verdict"]["sentence"])
    assert "In 2 folds, training and selecting likewise gives MRR@10" in pooled["verdict"]["sentence"]
    assert pooled["serving"] == report["serving"]
    assert not pooled["verdict"]["confirmed"]


def test_a_kept_base_stays_and_the_folds_are_quoted(evaluation: Make, tmp_path: Path) -> None:
    made = evaluation({BASE: [1] * 4}, dev=dev(2, base=1))
    report = report_of(made, shipped="base")
    pooled = with_folds(report, [saved(report, made, tmp_path), fold(2, selected=BASE, base=[1] * 4, tuned=[1] * 4)])
    assert pooled["verdict"]["sentence"].startswith("KEEP THE BASE MODEL AS IT IS")
    assert pooled["verdict"]["against_base"] is None
    assert "MRR@10 1.000 -> 1.000 on all 8 queries" in pooled["verdict"]["sentence"]


@pytest.mark.parametrize(
    ("tuned", "train", "suggested"), [([1, 9], 60, True), ([1, 1], 60, False), ([1, 9], 300, False)]
)
def test_few_queries_and_a_wide_interval_suggest_folds(
    evaluation: Make, tuned: list[int], train: int, suggested: bool
) -> None:
    report = report_of(evaluation({BASE: [2] * 20, TUNED: tuned * 10}, dev=dev(1)))
    report["split"]["counts"]["train"]["queries"] = train
    found = [step.purpose for step in next_steps(report, "my-run") if "--folds" in step.purpose]
    assert (
        found
        == [
            "test all 120 queries instead of 20, by adding --folds 5 to the command of the run, since the interval "
            "includes zero"
        ]
        * suggested
    )


def test_a_damaged_fold_is_refused(evaluation: Make, tmp_path: Path) -> None:
    made = evaluation({BASE: [2] * 3, TUNED: [1] * 3}, dev=dev(1))
    report = report_of(made)
    assert saved(report, made, tmp_path).selected == TUNED
    del report["verdict"]["instead"]  # as in a report of an earlier version
    with pytest.raises(AceFinetuneError, match=r"report\.json.*make the run again with --force"):
        saved(report, made, tmp_path)
    (tmp_path / "report.per_query.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(AceFinetuneError, match="not valid JSON"):
        read_fold(tmp_path / "report.json")
