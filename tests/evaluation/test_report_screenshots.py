"""The report as readers see it: wide and on a phone, light and dark, and on paper."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.browser import CHROMIUM, look_at, print_to_pdf

from llama_index_ace_finetune.evaluation.decision.verdict import reach_verdict
from llama_index_ace_finetune.evaluation.report.report import ReportContext, build_report, write_report
from llama_index_ace_finetune.evaluation.result import BASE, HYBRID_EQUAL, TUNED, Evaluation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome"),
]
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 23, 26)"


@pytest.fixture
def page(evaluation: Callable[..., Evaluation], tmp_path: Path) -> Path:
    texts = [f"how do I undo change number {n} in production without a rollback?" for n in range(28)]
    made = evaluation(
        {BASE: [2, 1, 4, 3] * 7, TUNED: [1, 1, 2, 5] * 7, HYBRID_EQUAL: [3] * 28},
        dev={BASE: [2] * 40, TUNED: [1] * 40},
        weights=(1.0, 0.0),
        texts=texts,
        metadata={f"q{n}": {"difficulty": "hard" if n % 2 else "easy"} for n in range(28)},
    )
    context = ReportContext(
        title="Retrieval of the on-call agent", base_model="base", tuned_model="model", run="my-run"
    )
    report = build_report(made, reach_verdict(made, {"shipped": "finetuned", "rule": "a rule"}), context)
    return write_report(report, tmp_path / "report.json")[1]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_nothing_overflows_and_colours_follow_the_scheme(page: Path, width: int, dark: bool, tmp_path: Path) -> None:
    seen = look_at(page, width=width, height=3000, dark=dark)
    (tmp_path / f"report-{width}-{'dark' if dark else 'light'}.png").write_bytes(seen.picture)
    assert seen.errors == []
    assert seen.scroll_width == width, seen.outside
    assert seen.outside == []
    # The systems with the deciding difference and p are seen without scrolling.
    assert "Systems" not in seen.scrolling
    assert seen.background == (DARK if dark else LIGHT)
    assert not [one for one in seen.violations or () if one["impact"] in ("serious", "critical")]


def test_paper_is_light_a4_with_all_details(page: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "report.pdf"
    print_to_pdf(page, pdf)
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    boxes = set(re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content))
    assert boxes
    assert all(abs(float(w) - 595) < 2 and abs(float(h) - 842) < 2 for w, h in boxes)
    # The print rules as those of a screen, in the width of the paper between its margins, for a dark scheme.
    text = page.read_text(encoding="utf-8")
    paper = tmp_path / "paper.html"
    rules = text.replace("@media screen and", "@media tv and").replace("@media print", "@media screen")
    paper.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", rules), encoding="utf-8")
    seen = look_at(paper, width=688, height=3000, dark=True)
    (tmp_path / "report-print.png").write_bytes(seen.picture)
    assert seen.scroll_width == 688
    assert seen.outside == []
    assert seen.scrolling == []
