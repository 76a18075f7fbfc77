from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llama_index_ace_finetune.evaluation.evaluate import BASE, TUNED, Evaluation
from llama_index_ace_finetune.evaluation.report import ReportContext, build_report, write_report
from llama_index_ace_finetune.evaluation.report_html import render_html
from llama_index_ace_finetune.evaluation.verdict import reach_verdict

Make = Callable[..., Evaluation]
VOID = {"meta", "line", "circle", "br"}


def report_of(evaluation: Evaluation, **context: Any) -> dict[str, Any]:
    verdict = reach_verdict(evaluation, {"shipped": "finetuned", "rule": "a rule"})
    options = {
        "title": "demo",
        "base_model": "base-model",
        "tuned_model": "tuned-model",
        "split_counts": {"test": {"queries": 4, "answers": 4}, "components": 4},
        **context,
    }
    return build_report(evaluation, verdict, ReportContext(**options))


class Page(HTMLParser):
    """Checks that tags nest, and keeps tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


METADATA = {
    "q0": {"difficulty": "easy", "query_category": "direct", "category": "ERRORS"},
    "q1": {"difficulty": "hard", "query_category": "vague"},
    "q2": {"difficulty": "hard"},
    "q3": {},
}


@pytest.fixture
def report(evaluation: Make) -> dict[str, Any]:
    return report_of(evaluation({BASE: [1, 2, 4, None], TUNED: [1, 1, 5, 10]}, metadata=METADATA))


def test_the_originals_summary_fields_by_hand(report: dict[str, Any]) -> None:
    assert report["baseline"]["model"] == "base-model"
    assert report["baseline"]["recall@1"] == 0.25
    assert report["baseline"]["recall@5"] == 0.75
    assert report["baseline"]["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 4, abs=1e-6)
    assert report["finetuned"]["model"] == "tuned-model"
    assert report["finetuned"]["recall@1"] == 0.5
    assert report["finetuned"]["mrr"] == pytest.approx((1 + 1 + 1 / 5 + 1 / 10) / 4, abs=1e-6)
    assert report["finetuned"]["avg_similarity"] == pytest.approx(0.4, abs=1e-6)
    assert report["improvement"] == {
        "recall@1": 100.0,
        "recall@5": 0.0,
        "mrr": pytest.approx((2.3 / 1.75 - 1) * 100, abs=0.01),
    }
    assert report["metadata"]["total_queries_evaluated"] == 4
    assert report["metadata"]["corpus_size"] == 30
    assert report["metadata"]["schema_version"] == 1


def test_slices_count_their_queries(report: dict[str, Any]) -> None:
    slices = report["finetuned"]["by_difficulty"]
    assert {label: figures["count"] for label, figures in slices.items()} == {"easy": 1, "hard": 2}
    assert slices["hard"]["mrr"] == pytest.approx((1 + 1 / 5) / 2)
    assert set(report["baseline"]["by_category"]) == {"direct", "vague"}


def test_no_improvement_over_nothing(evaluation: Make) -> None:
    report = report_of(evaluation({BASE: [None] * 4, TUNED: [1] * 4}))
    assert report["improvement"] == {"recall@1": 0.0, "recall@5": 0.0, "mrr": 0.0}


def test_systems_verdict_and_environment(report: dict[str, Any]) -> None:
    names = [system["name"] for system in report["systems"]]
    assert names == ["BM25", "base", "tuned", "hybrid base", "hybrid equal", "hybrid"]
    assert report["systems"][1]["difference_to_base"] == {}
    difference = report["systems"][2]["difference_to_base"]["MRR@10"]
    assert set(difference) == {"mean", "low", "high", "p_value", "wins", "ties", "losses"}
    assert (difference["wins"], difference["ties"], difference["losses"]) == (2, 1, 1)
    assert report["verdict"]["rule"] == "a rule"
    assert report["environment"]["packages"]["numpy"]


def test_changes_hold_what_moved_with_ranks(report: dict[str, Any]) -> None:
    gains, losses = report["changes"]["gains"], report["changes"]["losses"]
    assert [(row["query_id"], row["base_rank"], row["tuned_rank"]) for row in gains] == [("q1", 2, 1), ("q3", None, 10)]
    assert [(row["query_id"], row["base_rank"], row["tuned_rank"]) for row in losses] == [("q2", 4, 5)]
    assert losses[0]["answer"] == "memory 2"
    assert losses[0]["first_hit"] == "memory 0"


def test_warnings_of_the_run_join_those_of_the_verdict(evaluation: Make) -> None:
    report = report_of(evaluation({BASE: [1] * 4, TUNED: [2] * 4}), warnings=("look out",), split_notes=("a note",))
    assert report["verdict"]["warnings"][-1] == "look out"
    page = Page(render_html(report))
    assert "Note: look out" in page.text
    assert "a note" in page.text


def test_files_are_json_and_a_page_of_its_own(report: dict[str, Any], tmp_path: Path) -> None:
    json_path, html_path = write_report(report, tmp_path / "new" / "report.json")
    assert json.loads(json_path.read_text(encoding="utf-8")) == json.loads(json.dumps(report))
    text = html_path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.tags.count("circle") == 5
    assert "script" not in page.tags
    assert "http" not in text
    assert "4 held-out queries, ranked over all 30 distinct memories" in page.text
    assert "By difficulty" in page.text
    assert sorted(path.name for path in json_path.parent.iterdir()) == ["report.html", "report.json"]


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "أعد تشغيل الخادم \u202eخادم\u202c قبل النشر",
    "long " * 2000,
]


def test_texts_of_the_data_are_never_markup(evaluation: Make, tmp_path: Path) -> None:
    made = evaluation(
        {BASE: [2] * 4, TUNED: [1] * 4},
        texts=HOSTILE,
        metadata={f"q{n}": {"difficulty": "<b>hard</b>", "query_category": "a&b"} for n in range(4)},
    )
    report = report_of(made, title="<script>title</script>", tuned_model="<i>m</i>", command="run '<u>'")
    _, html_path = write_report(report, tmp_path / "report.json")
    text = html_path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "img", "b", "i", "u"} & set(page.tags)
    assert "<script>alert(1)</script>" in page.text
    assert '"><img src=x onerror=alert(1)>' in page.text
    assert HOSTILE[2] in page.text
    assert "<b>hard</b>" in page.text
    # The page shortens what the JSON keeps whole.
    assert len(HOSTILE[3]) == 10_000
    assert len(text) < 40_000
    kept = {
        row["query"] for row in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["changes"]["gains"]
    }
    assert kept == set(HOSTILE)


def test_a_page_without_slices_and_changes(evaluation: Make) -> None:
    page = Page(render_html(report_of(evaluation({BASE: [1] * 4, TUNED: [1] * 4}))))
    assert page.open == []
    assert "By difficulty" not in page.text
    assert page.text.count("None.") == 2
