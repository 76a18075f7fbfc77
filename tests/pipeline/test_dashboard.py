from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers.browser import CHROMIUM, look_at
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.production.comparison import COMPARISON
from llama_index_ace_finetune.production.dashboard import render_dashboard
from llama_index_ace_finetune.production.live_comparison import compare_live
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import FeedbackRecord, LoggedHit, RetrievalRecord
from llama_index_ace_finetune.production.usage import WorstQuery, measure_usage

HOSTILE = "</title></style></svg><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }} $x$ \u202e\ud800"
DAY = 86_400.0
WATCHED = {
    "queries": 200,
    "reference": "run",
    "drift": {"signals": [{"name": HOSTILE, "value": 0.8, "reference": 0.5, "p_value": 0.002}]},
    "fallbacks": 0.01,
    "latency": {"p50": 12.0, "p95": 30.0, "p99": 100.0},
    "labelled": 30,
    "due": True,
    "failing": False,
    "sentence": f"A new training is due. {HOSTILE}",
    "notes": (HOSTILE,),
}


def record(number: int, query: str, *, score: float | None = 0.5, **fields: object) -> RetrievalRecord:
    hits = (LoggedHit(node_id="a", rank=1, dense_score=score, team="ta"), LoggedHit(node_id="b", rank=2, team="tb"))
    values = {
        "query_id": f"q{number}",
        "time": 1.9e9 + number * DAY / 10,
        "query": query,
        "seconds": 0.01,
        "hits": hits,
    }
    return RetrievalRecord(**{**values, **fields})  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path):
    """Forty days with hostile texts everywhere: the name of a comparison, queries, labels and what served."""
    facts = {"name": HOSTILE, "kind": "interleaved", "a": "ta", "b": "tb"}
    with QueryLog.open(tmp_path / "queries.db") as log:
        for number in range(60):
            extra = {COMPARISON: facts, HOSTILE: HOSTILE if number % 2 else "x"}
            log.write(record(number, f"{HOSTILE} {number % 7}", extra=extra, served_by=HOSTILE))
            log.write(FeedbackRecord(query_id=f"q{number}", node_id="b", value=1.0, time=1.9e9 + number))
        yield log


def page_of(log: QueryLog) -> str:
    usage = measure_usage(log.records(), log.feedback_records())
    return render_dashboard(
        title=HOSTILE, usage=usage, comparisons=[compare_live(log)], watched=WATCHED, date="2030-01-01"
    )


def test_hostile_text_is_escaped_and_nothing_is_loaded(log: QueryLog) -> None:
    page = page_of(log)
    assert "<script" not in page
    assert "<img" not in page
    assert "49" not in re.sub(r"<svg.*?</svg>|<style.*?</style>|[\d,.:%-]*\d", "", page, flags=re.DOTALL)
    assert page.count("&lt;script&gt;") > 10
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'sha256-")
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert not re.search(r'<[^>]+ style="', page)


def test_sections_and_figures(log: QueryLog) -> None:
    page = page_of(log)
    for shown in ("B is better than A: +1.000", "12 / 30 / 100 ms", "Served by a fallback", "1.0%", "0.800"):
        assert shown in page
    assert page.count("<svg") == 4  # the credit and the volume, for screens and for phones
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_empty_log(tmp_path: Path) -> None:
    usage = measure_usage([], [])
    watched = {**WATCHED, "drift": None, "latency": {}, "notes": (), "due": False}
    page = render_dashboard(title="run", usage=usage, comparisons=[], watched=watched, date="2030-01-01")
    assert "0 searches in the query log" in page
    assert "The log has no comparison" in page


def test_usage_by_hand() -> None:
    records = [
        record(0, "fine", score=0.9),
        record(1, "weak", score=0.2),
        record(2, "weak", score=0.3),
        record(3, "rejected"),
        record(4, "nothing", hits=()),
        record(5, "in no calendar", score=None, time=1e300),
        record(6, "fine", extra={COMPARISON: {"name": "s", "kind": "shadow", "a": "x", "b": "y", "shadow_of": "q0"}}),
    ]
    feedback = [
        FeedbackRecord(query_id="q3", node_id="a", value=-1, time=0.0),
        FeedbackRecord(query_id="q0", node_id="a", value=1, kind="use", time=0.0),
        FeedbackRecord(query_id="q0", node_id="b", value=0.5, time=0.0),
    ]
    usage = measure_usage(records, feedback)
    assert usage.queries == 6
    assert usage.feedback == {"not relevant": 1, "use": 1, "relevant": 1}
    assert usage.days == (("2030-03-17", 3), ("2030-03-18", 2))
    assert usage.worst == (
        WorstQuery("rejected", 1, 1, 0, 0.5),
        WorstQuery("nothing", 1, 0, 1, None),
        WorstQuery("weak", 2, 0, 0, 0.2),
        WorstQuery("fine", 1, 0, 0, 0.9),
    )


def test_command_reports_errors_in_one_sentence(log: QueryLog, tmp_path: Path) -> None:
    log.flush()
    result = CliRunner().invoke(app, ["dashboard", str(log.path), str(tmp_path / "none"), "--out", "x.html"])
    assert result.exit_code == 2
    assert "holds no finished run" in " ".join(result.output.split())
    assert not Path("x.html").exists()


@pytest.mark.slow
def test_command_on_a_run(finished_run: Path, log: QueryLog, tmp_path: Path) -> None:
    log.flush()
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["dashboard", str(log.path), str(finished_run), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["usage"]["queries"] == 60
    assert "B is better than A" in out.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome")
@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)])
def test_page_in_a_browser(log: QueryLog, tmp_path: Path, width: int, dark: bool) -> None:
    page = tmp_path / "page.html"
    page.write_text(page_of(log), encoding="utf-8")
    seen = look_at(page, width=width, dark=dark)
    assert seen.errors == []
    assert seen.scroll_width <= seen.width
    assert seen.outside == []
    assert not seen.violations, seen.violations
