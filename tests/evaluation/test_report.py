from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import CHROMIUM, look_at
from rich.console import Console

from llama_index_ace_finetune.cli.summary import print_summary
from llama_index_ace_finetune.datasets.oracle import UpperBound
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.evaluation.choosing.known_queries import KnownQueryChoice
from llama_index_ace_finetune.evaluation.decision.verdict import reach_verdict
from llama_index_ace_finetune.evaluation.known import KnownResults
from llama_index_ace_finetune.evaluation.report import html
from llama_index_ace_finetune.evaluation.report.choice import frontier
from llama_index_ace_finetune.evaluation.report.html import _unbroken, render_html
from llama_index_ace_finetune.evaluation.report.learning_curve import CurvePoint, LearningCurve
from llama_index_ace_finetune.evaluation.report.per_query import PerQuery, per_query_path, write_per_query
from llama_index_ace_finetune.evaluation.report.plain_sentence import plain_sentence
from llama_index_ace_finetune.evaluation.report.report import ReportContext, build_report, read_report, write_report
from llama_index_ace_finetune.evaluation.report.systems_table import systems_csv, systems_latex
from llama_index_ace_finetune.evaluation.result import BASE, BM25, HYBRID_EQUAL, TUNED, Evaluation
from llama_index_ace_finetune.evaluation.stats.paired import SIGNIFICANT
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System

Make = Callable[..., Evaluation]
VOID = {"meta", "br"}
text_only = pytest.mark.usefixtures("without_plots")


def report_of(evaluation: Evaluation, **context: Any) -> dict[str, Any]:
    verdict = reach_verdict(evaluation, {"shipped": "finetuned", "rule": "a rule"})
    options = {
        "title": "demo",
        "base_model": "base-model",
        "tuned_model": "tuned-model",
        "split": {
            "counts": {"test": {"queries": 4, "answers": 4}, "components": 4},
            "notes": ["a note"],
            "settings": {"seed": 7},
            "sha256": "0123456789abcdef0123",
        },
        **context,
    }
    return build_report(evaluation, verdict, ReportContext(**options))


class Page(HTMLParser):
    """Checks that tags are nested, and collects tags and text."""

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


AFTER = [1, 1, 5, 10]


@pytest.fixture
def made(evaluation: Make) -> Evaluation:
    # Without dev queries the tuned model is served without BM25.
    return evaluation({BASE: [1, 2, 4, None], TUNED: AFTER}, metadata=METADATA)


@pytest.fixture
def report(made: Evaluation) -> dict[str, Any]:
    return report_of(made)


def test_original_summary_fields_by_hand(report: dict[str, Any]) -> None:
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
    assert report["metadata"]["schema_version"] == 3


def test_slice_query_counts(report: dict[str, Any]) -> None:
    slices = report["finetuned"]["by_difficulty"]
    assert {label: figures["count"] for label, figures in slices.items()} == {"easy": 1, "hard": 2}
    assert slices["hard"]["mrr"] == pytest.approx((1 + 1 / 5) / 2)
    assert set(report["baseline"]["by_category"]) == {"direct", "vague"}


def test_improvement_over_0_is_0(evaluation: Make) -> None:
    report = report_of(evaluation({BASE: [None] * 4, TUNED: [1] * 4}))
    assert report["improvement"] == {"recall@1": 0.0, "recall@5": 0.0, "mrr": 0.0}


def test_systems_verdict_and_environment(report: dict[str, Any]) -> None:
    names = [system["name"] for system in report["systems"]]
    assert names == ["BM25", "base", *HYBRIDS_OF_BASE, "tuned", *HYBRIDS_OF_TUNED]
    assert report["systems"][1]["difference_to_base"] == {}
    difference = report["systems"][5]["difference_to_base"]["MRR@10"]
    assert set(difference) == {"mean", "low", "high", "p_value", "wins", "ties", "losses", "p_holm", "effect_size"}
    assert (difference["wins"], difference["ties"], difference["losses"]) == (2, 1, 1)
    assert difference["p_value"] <= difference["p_holm"]
    # Differences +.5, 0, -.05, +.1.
    values = np.array([0, 0.5, 1 / 5 - 1 / 4, 0.1])
    assert difference["effect_size"] == pytest.approx(values.mean() / values.std(ddof=1))
    assert set(report["systems"][0]["means"]) == set(report["measures"])
    assert report["verdict"]["rule"].endswith("Weights: a rule")
    assert report["verdict"]["system"]["name"] == "tuned"
    assert report["serving"] == {
        "system": "tuned",
        "vectors": "model",
        "weights": [1.0, 0.0],
        "baseline_weights": [1.0, 0.0],
        "fusion": None,
        "baseline_fusion": None,
    }
    assert report["environment"]["packages"]["numpy"]


HYBRIDS_OF_BASE = ("base + BM25", "base + BM25, dev weights", "base + BM25, convex")
HYBRIDS_OF_TUNED = ["tuned + BM25", "tuned + BM25, dev weights", "tuned + BM25, convex"]


def test_largest_changes_with_ranks(report: dict[str, Any]) -> None:
    gains, losses = report["changes"]["gains"], report["changes"]["losses"]
    assert [(row["query_id"], row["base_rank"], row["new_rank"]) for row in gains] == [("q1", 2, 1), ("q3", None, 10)]
    assert [(row["query_id"], row["base_rank"], row["new_rank"]) for row in losses] == [("q2", 4, 5)]
    assert losses[0]["answer"] == "memory 2"
    assert losses[0]["first_hit"] == "memory 0"
    assert (report["changes"]["before"], report["changes"]["after"]) == ("base", "tuned")


def test_rank_change_matrix_counts_every_query_once(report: dict[str, Any]) -> None:
    movement = report["movement"]
    assert movement["buckets"] == ["1", "2-3", "4-10", "11-100", "not found"]
    assert movement["counts"] == [
        [1, 0, 0, 0, 0],  # q0: 1 -> 1
        [1, 0, 0, 0, 0],  # q1: 2 -> 1
        [0, 0, 1, 0, 0],  # q2: 4 -> 5
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],  # q3: not found -> 10
    ]


@text_only
def test_known_memories_are_shown_beside_new_ones(
    made: Evaluation, dev_set: Callable[[int], EvaluationSet], ranked: Callable[..., np.ndarray]
) -> None:
    asked = dev_set(6)
    of = {"BM25": [None] * 6, "base": [2] * 6, "tuned": [1, 1, 1, 2, 2, 2]}
    systems = [System(name=name, kind="dense", rankings=ranked(ranks)) for name, ranks in of.items()]
    known = KnownResults.of(asked, systems, base=BASE)
    before, report = report_of(made), report_of(replace(made, known=known))
    assert report["known"]["queries"] == {"new": 4, "known": 6}
    shown = {one["name"]: one for one in report["known"]["systems"]}
    assert list(shown) == ["BM25", "base", "tuned"]
    assert shown["tuned"]["known"]["MRR@10"]["mean"] == pytest.approx((3 + 3 / 2) / 6)
    assert shown["tuned"]["known"]["Success@1"] == pytest.approx({"mean": 0.5, "low": 0, "high": 1}, abs=0.2)
    assert shown["tuned"]["known"]["difference_to_base"]["mean"] == pytest.approx(0.25)
    assert shown["tuned"]["new"]["MRR@10"]["mean"] == pytest.approx(2.3 / 4)
    assert shown["base"]["known"]["difference_to_base"] is None
    # What is served does not depend on them, and the verdict says so.
    assert (before["known"], before["serving"]) == (None, report["serving"])
    assert report["verdict"]["sentence"].startswith(before["verdict"]["sentence"])
    said = "On 6 new queries about known memories: MRR@10 0.500 -> 0.750, +0.250"
    assert said in report["verdict"]["sentence"]
    assert "decision is made on queries about new memories" in report["verdict"]["rule"]
    page = Page(render_html(report))
    assert not page.open
    assert "New queries about known memories" in page.text
    assert "0.750 [" in page.text
    # Their relevant memories are those of train, so the split counts none for them.
    split = {"counts": {"train": {"queries": 9, "answers": 5}, "test_known": {"queries": 6}, "components": 3}}
    html = render_html({**report, "split": {**report["split"], **split}})
    assert '<tr><th scope="row">test_known</th><td>6</td><td>of train</td></tr>' in html
    assert "New queries about known memories" not in Page(render_html(before)).text
    screen = Console(width=100, record=True)
    print_summary(report, screen)
    assert re.search(r"tuned +.*0\.575 .*0\.750  \[", screen.export_text())


@text_only
def test_offsets_of_known_queries_are_shown(evaluation: Make) -> None:
    ranks = {BASE: [2] * 45, TUNED: [1] * 45}
    made = evaluation(ranks, dev=ranks)
    choice = KnownQueryChoice(None, "nothing gains", {None: 0.5, 0.25: 0.4}, {None: 0.6, 0.25: 0.7})
    report = report_of(replace(made, choice=replace(made.choice, known_queries=choice)))
    assert report["choice"]["known_queries"] == {
        "offset": None,
        "bm25": None,
        "reason": "nothing gains",
        "curve": [{"offset": None, "new": 0.5, "known": 0.6}, {"offset": 0.25, "new": 0.4, "known": 0.7}],
    }
    assert "known_query_offset" not in report["serving"]
    page = Page(render_html(report))
    assert not page.open
    assert "vectors of their memories: not used; nothing gains." in " ".join(page.text.split())
    assert "0.25</th><td>0.400</td><td>0.700</td>" in render_html(report)


def test_slices_have_means_and_difference(evaluation: Make) -> None:
    metadata = {f"q{n}": {"difficulty": "easy" if n < 12 else "hard"} for n in range(24)}
    made = evaluation({BASE: [2] * 24, TUNED: [1] * 12 + [2] * 12}, metadata=metadata)
    slices = report_of(made, seen_answers={"m00", "m13"})["slices"]
    by_name = {(one["dimension"], one["name"]): one for one in slices}
    assert by_name["difficulty", "easy"]["means"]["difference"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert by_name["difficulty", "hard"]["means"]["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert by_name["difficulty", "easy"]["means"]["base"]["mean"] == 0.5
    assert by_name["answer", "unseen"]["queries"] == 22
    assert by_name["answer", "other"]["small"]
    assert {dimension for dimension, _ in by_name} == {"difficulty", "query length", "lexical overlap", "answer"}


@text_only
def test_warnings_of_run_and_verdict_are_joined(made: Evaluation) -> None:
    report = report_of(made, warnings=("look out",))
    assert report["verdict"]["warnings"][-1] == "look out"
    page = Page(render_html(report))
    assert "Note: look out" in page.text
    assert "a note" in page.text


@text_only
def test_upper_bound_is_shown_if_below_1(made: Evaluation) -> None:
    low = Page(render_html(report_of(made, ceiling=UpperBound(0.85, 0.95, 0.9))))
    assert "no ranking could exceed R@1 0.850, R@5 0.950, MRR 0.900" in low.text
    assert "Upper bound" in low.text
    assert "Upper bound" not in Page(render_html(report_of(made, ceiling=UpperBound(1.0, 1.0, 1.0)))).text


def test_report_files_are_json_and_a_self_contained_page(
    made: Evaluation, report: dict[str, Any], tmp_path: Path
) -> None:
    json_path, html_path = write_report(report, tmp_path / "new" / "report.json", evaluation=made)
    assert read_report(json_path) == json.loads(json.dumps(report))
    text = html_path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    targets = re.findall(r"(?:src|href)=[\"']([^\"']*)|url\(([^)]*)\)", text)
    assert all(one.startswith("#") for pair in targets for one in pair if one)
    assert "://" not in text
    assert "4 held-out queries with 4 relevant documents, ranked over all 30 distinct documents" in page.text
    assert "The 10 of" not in page.text
    assert "All 2 queries that gained in MRR@10 from base to tuned" in page.text
    assert "All 1 query that lost in MRR@10 from base to tuned" in page.text
    assert sorted(path.name for path in json_path.parent.iterdir()) == [
        "report.html",
        "report.json",
        "report.per_query.jsonl",
    ]


def test_plots_have_alternative_text_and_unique_ids(evaluation: Make) -> None:
    made = evaluation({BASE: [2] * 40, HYBRID_EQUAL: [1] * 40}, dev={BASE: [2] * 40})
    history = [
        {"step": 0, "MRR@10": 0.5},
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.0},
        {"step": 2, "MRR@10": 0.6},
    ]
    curve = LearningCurve(tuple(CurvePoint(n, n / 1000, 0.0, 0.2) for n in (10, 100)), "It rises.")
    text = render_html(report_of(made, training={"history": history}, learning_curve=curve))
    plots = re.findall(r"<svg[^>]*>", text)
    assert len(plots) == 12  # each for screens and for phones
    assert all('role="img"' in one and re.search(r'aria-label="[^"]{40,}"', one) for one in plots)
    assert "MRR@10 on dev went from 0.500 to 0.600 and the loss from 2.000 to 1.000" in text
    assert "10 queries +0.010; 100 queries +0.100" in text
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    assert used <= set(ids)
    # No colour is fixed, so the plots follow the dark mode of the page.
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", text)


def test_per_query_values_round_trip(made: Evaluation, tmp_path: Path) -> None:
    path = per_query_path(tmp_path / "report.json")
    write_per_query(made, path)
    values = PerQuery.read(path)
    assert values.query_ids == made.data.query_ids
    assert values.groups == tuple(made.data.groups)
    assert set(values.values) == set(made.values)
    for system, measured in made.values.items():
        for measure, expected in measured.items():
            assert values.values[system][measure] == pytest.approx(expected, abs=1e-6)
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[1])
    assert (first["query"], first["right"], first["systems"]["base"]["rank"]) == ("query 1", ["m01"], 2)
    assert first["systems"]["base"]["top"][:2] == ["m00", "m01"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file contains no query"),
        ("{", "line 1: the line is not valid JSON"),
        ("[]", "line 1: the line is not a JSON object"),
        ('{"query_id": "q"}', "line 1: the line is not a JSON object with the measures"),
        ('{"query_id": "q", "systems": {"base": {"mrr": 1}}}', "a value is missing or invalid"),
        ('{"query_id": "q", "systems": {"base": []}}', "line 1: the line is not a JSON object with the measures"),
        (
            '{"query_id": "q", "query_hash": "", "group": "", "systems": {"base": {"mrr": []}}}',
            "a value is missing or invalid",
        ),
        ('{"systems": {"base": {"mrr": NaN}}}', "NaN"),
        ("[" * 5000, "nested"),
    ],
)
def test_damaged_per_query_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "values.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        PerQuery.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; give a finished run"),
        ("{", "is corrupt"),
        ("[]", "not a JSON object"),
        ('{"metadata": {}}', "version None"),
    ],
)
def test_damaged_report_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(AceFinetuneError, match=message):
        read_report(path)


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "أعد تشغيل الخادم \u202eخادم\u202c قبل النشر",
    "long " * 2000,
]


def hostile_report(evaluation: Make) -> dict[str, Any]:
    made = evaluation(
        {BASE: [2] * 12, TUNED: [1] * 12, "<i>$model$</i>": [3] * 12},
        texts=HOSTILE * 3,
        metadata={f"q{n}": {"difficulty": "<b>hard</b>", "query_category": "a&b"} for n in range(12)},
    )
    return report_of(made, title="<script>title</script>", tuned_model="<i>m</i>", command="run '<u>'")


def test_texts_are_escaped(evaluation: Make, tmp_path: Path) -> None:
    _, html_path = write_report(hostile_report(evaluation), tmp_path / "report.json")
    text = html_path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "img", "b", "i", "u"} & set(page.tags)
    assert "<script>alert(1)</script>" in page.text
    assert '"><img src=x onerror=alert(1)>' in page.text
    assert HOSTILE[2] in page.text
    assert "<b>hard</b>" in page.text
    assert "<i>$model$</i>" in page.text
    # A long text is folded, but complete.
    assert len(HOSTILE[3]) == 10_000
    assert HOSTILE[3] in page.text
    assert "(10,000 characters)" in page.text
    kept = {
        row["query"] for row in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["changes"]["gains"]
    }
    assert kept == set(HOSTILE)


def test_content_security_policy_allows_only_styles_of_the_page(evaluation: Make) -> None:
    hostile = "</style><style>body{display:none}</style><p style='color:red' onclick='x()'>"
    history = [{"step": 0, "MRR@10": 0.5}, {"step": 1, "loss": 2.0}, {"step": 2, "MRR@10": 0.6}]
    report = report_of(evaluation({BASE: [2] * 40, TUNED: [1] * 40}), training={"history": history})
    report["metadata"]["title"] = hostile
    report["slices"] = [{**one, "name": f"{one['name']} {hostile}"} for one in report["slices"]]
    text = render_html(report)
    policies = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    assert len(policies) == 1
    assert text.index(policies[0]) < text.index("<style")
    directives = dict(one.split(" ", 1) for one in policies[0].split("; "))
    assert directives["default-src"] == "'none'"
    assert set(directives) == {"default-src", "style-src", "img-src", "base-uri", "form-action"}
    styles = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in styles}
    assert len(styles) >= 4
    assert set(directives["style-src"].split()) == {f"'sha256-{one}'" for one in hashes}
    assert not any("display:none" in style for style in styles)
    # The policy blocks style attributes and handlers, so the page must not have any.
    names: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda _, attributes: names.extend(name for name, _ in attributes)  # type: ignore[method-assign]
    parser.feed(text)
    assert "class" in names
    assert not [name for name in names if name == "style" or name.startswith("on")]
    used = {name for names in re.findall(r'<[a-z][^<>]*\sclass="([\w]+-s\d+)"', text) for name in names.split()}
    assert used
    assert all(f".{name} {{" in text for name in used)


@text_only
def test_counts_of_gains_and_losses_are_true(evaluation: Make) -> None:
    text = Page(render_html(report_of(evaluation({BASE: [2] * 25, TUNED: [1] * 13 + [3] * 11 + [2]})))).text
    assert "The 10 of 13 queries that gained" in text
    assert "The 10 of 11 queries that lost" in text


@text_only
@pytest.mark.parametrize(
    ("tuned", "shipped", "sentence"),
    [
        (
            [1] * 3 + [3],
            "finetuned",
            "A relevant document comes first for 3 of 4 queries; before, with the base model: 1.",
        ),
        (
            [1] * 3 + [3],
            "base",
            "The base model is served as it is: a relevant document comes first for 1 of 4 queries.",
        ),
    ],
)
def test_plain_sentence_by_hand(evaluation: Make, tuned: list[int], shipped: str, sentence: str) -> None:
    made = evaluation({BASE: [1, 2, 2, 2], TUNED: tuned})
    verdict = reach_verdict(made, {"shipped": shipped})
    report = build_report(made, verdict, ReportContext(title="demo", base_model="base", tuned_model="model"))
    assert plain_sentence(report) == sentence
    assert sentence in " ".join(Page(render_html(report)).text.split())


@text_only
def test_page_shows_what_is_served_if_test_rejects_the_selection(evaluation: Make) -> None:
    report = report_of(evaluation({BASE: [1] * 20, TUNED: [2] * 20}))
    assert (report["verdict"]["system"]["name"], report["serving"]["system"]) == ("tuned", "base")
    page = render_html(report)
    rows = re.findall(r"<tr[^>]*><th scope=\"row\"><bdi>([^<]*)</bdi>.*?</th>", page, re.DOTALL)
    assert "base" in rows
    assert re.search(r'<tr class="chosen"><th scope="row"><bdi>base</bdi> <span class="badge">serve this', page)
    assert re.search(r"<bdi>tuned</bdi>[^\n]*selected on dev, rejected on test", page)
    assert "<dt>Serve</dt><dd>base</dd>" in page
    assert '<dt>Confirmed on test</dt><dd class="down">no</dd>' in page


@text_only
def test_no_line_breaks_inside_arrows_intervals_and_p_values(evaluation: Make) -> None:
    page = render_html(report_of(evaluation({BASE: [2] * 20, TUNED: [1] * 20})))
    sentence = re.findall(r'<p class="sentence">(.*)</p>', page)[0]
    for whole in ("0.500 -&gt; 1.000,", "+0.500 to +0.500", "p &lt; .001"):
        assert f'<span class="num">{whole}</span>' in sentence
    assert re.search(r"\.num \{ white-space: nowrap; \}", page)
    hostile = _unbroken("<b>1 -> 2</b> p = .5 <script>")
    assert "<b>" not in hostile
    assert "<script>" not in hostile


@text_only
def test_terms_of_the_table_are_in_the_glossary(report: dict[str, Any]) -> None:
    page = render_html(report)
    linked = set(re.findall(r'href="#(term-[\w-]+)"', page))
    assert {"term-mrr", "term-p", "term-success", "term-ndcg"} <= linked
    assert linked <= set(re.findall(r'id="(term-[\w-]+)"', page))
    assert SIGNIFICANT.replace("<=", "&lt;=") in re.sub(r"</?span[^>]*>", "", page)


@text_only
def test_table_as_csv_and_latex(evaluation: Make) -> None:
    made = evaluation({BASE: [2] * 20, TUNED: [1] * 20, "=cmd|x_1&y": [3] * 20})
    report = report_of(made)
    header, *rows = csv.reader(io.StringIO(systems_csv(report)))
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert len(table) == len(report["systems"])
    assert float(table["tuned"]["MRR@10"]) == 1.0
    assert (float(table["tuned"]["difference"]), int(table["tuned"]["wins"])) == (0.5, 20)
    assert table["base"]["difference"] == ""
    assert "'=cmd|x_1&y" in table
    latex = systems_latex(report)
    assert latex.count(r" \\") == len(report["systems"]) + 1
    assert r"=cmd|x\_1\&y" in latex
    assert r"\textbf{tuned} & 1.000" in latex
    assert "$+0.500$ [$+0.500$, $+0.500$] & $<$ .001" in latex
    page = Page(render_html(report)).text
    assert systems_csv(report).strip() in page
    assert latex.strip() in page


def test_colours_are_readable_in_light_and_dark() -> None:
    """Contrast of text colours by WCAG 2.2 (1.4.3): at least 4.5 on the page and on panels."""
    css = (Path(html.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{[^}]*\}", css)]
    assert len(schemes) == 2

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colours in schemes:
        for ink in ("ink", "soft", "good", "bad", "mark"):
            for paper in ("paper", "panel"):
                low, high = sorted(luminance(colours[name]) for name in (ink, paper))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper)


@text_only
def test_marks_follow_one_rule_in_page_and_terminal(evaluation: Make, capsys: pytest.CaptureFixture[str]) -> None:
    # Three queries that all gain: the interval is above zero, p = .25.
    report = report_of(evaluation({BASE: [2] * 3, TUNED: [1] * 3, HYBRID_EQUAL: [3] * 3}))
    assert report["systems"][5]["difference_to_base"]["MRR@10"]["low"] > 0
    page = render_html(report)
    assert not re.findall(r'class="interval num (?:up|down)"', page)
    assert 'class="verdict "' in page
    clear = render_html(report_of(evaluation({BASE: [2] * 20, TUNED: [1] * 20, BM25: [3] * 20})))
    assert re.findall(r'class="interval num (up|down)">([+-][\d.]+)', clear) == [("down", "-0.167"), ("up", "+0.500")]
    # Only the p-value of the rule is in the table; the adjusted one is named as such.
    tables = page.split("<summary>All measures</summary>")
    difference = report["systems"][5]["difference_to_base"]["MRR@10"]
    for key, table in (("p_value", tables[0]), ("p_holm", tables[1])):
        assert f'<td class="num">{difference[key]:.3f}</td>' in table
    screen = Console(width=100, force_terminal=True, color_system="standard", highlight=False)
    for one, colours in ((report, 0), (report_of(evaluation({BASE: [2] * 20, TUNED: [1] * 20})), 2)):
        print_summary(one, screen)
        printed = capsys.readouterr().out
        # The row and the verdict.
        assert printed.split("SHIP")[0].count("\x1b[1;32m") == colours, printed


def test_page_without_slices_and_changes(evaluation: Make) -> None:
    page = Page(render_html(report_of(evaluation({BASE: [1] * 4, TUNED: [1] * 4}))))
    assert page.open == []
    assert page.text.count("None.") == 2
    assert "This model has no recorded training history" in page.text
    assert "Latency was not measured." in page.text


def test_one_query(evaluation: Make) -> None:
    report = report_of(evaluation({BASE: [2], TUNED: [1]}))
    difference = report["systems"][5]["difference_to_base"]["MRR@10"]
    assert (difference["low"], difference["high"], difference["p_value"]) == (0.5, 0.5, 1.0)
    assert difference["effect_size"] is None
    assert not report["verdict"]["confirmed"]
    assert "All queries are in one group" in report["verdict"]["warnings"][-1]
    assert Page(render_html(report)).open == []


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome")


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_page_in_a_browser(evaluation: Make, tmp_path: Path, width: int, dark: bool) -> None:
    _, page = write_report(hostile_report(evaluation), tmp_path / "report.json")
    seen = look_at(page, width=width, dark=dark)
    assert seen.errors == []
    assert seen.width == width
    assert seen.scroll_width == width, seen.outside
    assert seen.outside == []
    assert not [one for one in seen.violations or () if one["impact"] in ("serious", "critical")]
    assert len(seen.picture) > 20_000


@needs_browser
def test_browser_check_finds_faults(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><html><head></head><body><div style='width:2000px;color:#ddd;background:#fff'>wide</div>"
        "<img src='gone.png'><script>console.error('oh')</script></body></html>",
        encoding="utf-8",
    )
    seen = look_at(page, width=390)
    assert any("oh" in line for line in seen.errors)
    assert seen.scroll_width >= 2000
    assert seen.outside
    if seen.violations is not None:
        assert {"image-alt", "html-has-lang", "color-contrast"} <= {one["id"] for one in seen.violations}


@text_only
def test_choice_of_the_served_system(evaluation: Make) -> None:
    dev = {BASE: [2] * 40, TUNED: [1] * 40, HYBRID_EQUAL: [3] * 40, BM25: [4] * 40}
    made = evaluation({BASE: [2] * 20, TUNED: [1] * 20}, dev=dev)
    costs = {"BM25": (0.5, 300.0), "base": (8.0, 1536.0), "tuned": (9.0, 1536.0)}
    priced = [
        replace(one, milliseconds=costs[one.structure.name][0], bytes_per_memory=costs[one.structure.name][1])
        if one.structure.name in costs
        else one
        for one in made.candidates
    ]
    report = report_of(replace(made, candidates=priced))
    choice = report["choice"]
    assert choice["system"] == "tuned"
    assert choice["settings"] == {"kind": "convex", "weights": {"dense": 1.0}}
    assert choice["contributions"] == {"tuning": 0.5}
    assert choice["nested"] == pytest.approx({"mean": 1.0, "low": 1.0, "high": 1.0})
    assert choice["nested_gain"] == pytest.approx({"mean": 0.5, "low": 0.5, "high": 0.5})
    assert [one["name"] for one in frontier(choice["candidates"], "milliseconds")] == ["BM25", "base", "tuned"]
    assert [one["name"] for one in frontier(choice["candidates"], "bytes_per_memory")] == ["BM25", "tuned"]
    page = Page(render_html(report))
    assert page.open == []
    assert "Each part adds to MRR@10 on dev: tuning +0.500." in page.text
    assert "this way of selecting has MRR@10 1.000 [1.000, 1.000], +0.500 [+0.500, +0.500] against" in page.text
    # A report of the version before has no such part.
    old = {name: value for name, value in report.items() if name != "choice"}
    assert "The weights of the dense leg and BM25 are selected on the dev queries only." in Page(render_html(old)).text


@text_only
def test_hybrids_that_are_not_served_are_in_all_measures_only(evaluation: Make) -> None:
    report = report_of(evaluation({BASE: [2] * 20, TUNED: [1] * 20}, dev={BASE: [2] * 40, TUNED: [1] * 40}))
    main, folded = render_html(report).split("<summary>All measures</summary>", 1)
    for name in ("BM25", "base", "tuned"):
        assert f"<bdi>{name}</bdi>" in main
    for name in (*HYBRIDS_OF_BASE, *HYBRIDS_OF_TUNED):
        assert f"<bdi>{name}</bdi>" not in main
        assert f"<bdi>{name}</bdi>" in folded


@text_only
def test_weights_in_the_page_are_those_of_the_served_fusion(evaluation: Make) -> None:
    report = report_of(evaluation({BASE: [2] * 20, TUNED: [1] * 20}))
    by_rank = render_html({**report, "serving": {**report["serving"], "fusion": None}})
    assert "Weights, dense : BM25" in by_rank
    fusion = {"kind": "convex", "weights": {"dense": 0.25, "late": 0.75}, "depth": 100}
    by_score = render_html({**report, "serving": {**report["serving"], "fusion": fusion}})
    assert "<dd>dense 0.25, late interaction 0.75</dd>" in by_score
    assert "Weights, dense : BM25" not in by_score
