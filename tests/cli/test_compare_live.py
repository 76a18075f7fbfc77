from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.production.comparison import COMPARISON
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import FeedbackRecord, LoggedHit, RetrievalRecord
from llama_index_ace_finetune.utils.atomic import write_json

HOSTILE = "[bold]</svg><script>alert(1)</script> $x$ \x1b[31m"
runner = CliRunner()


def hits(ids: str, teams: Sequence[str] = ()) -> tuple[LoggedHit, ...]:
    return tuple(
        LoggedHit(node_id=one, rank=rank + 1, team=teams[rank] if teams else None) for rank, one in enumerate(ids)
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """An interleaved comparison that B wins, and a shadow comparison with two differing queries."""
    path = tmp_path / "queries.db"
    facts = {"a": "ta", "b": "tb"}
    with QueryLog.open(path) as opened:
        for number in range(40):
            extra = {COMPARISON: {**facts, "name": HOSTILE, "kind": "interleaved"}, "page": HOSTILE}
            drafted = hits("ab", ["ta", "tb"])
            record = {"query_id": f"q{number}", "time": 2e9 + number, "query": "some words", "seconds": 0.01}
            opened.write(RetrievalRecord(hits=drafted, extra=extra, **record))
            opened.write(FeedbackRecord(query_id=f"q{number}", node_id="b", value=1.0, time=2e9 + number + 0.5))
        for number, (served, unseen, overlap) in enumerate([("xy", "yx", 0.7), ("xy", "vw", 0.0)]):
            extra = {COMPARISON: {**facts, "name": "before", "kind": "shadow"}}
            record = {"time": 2e9, "query": "=HYPERLINK(1)", "seconds": 0.01}
            opened.write(RetrievalRecord(query_id=f"s{number}", hits=hits(served), extra=extra, **record))
            unseen_of = {COMPARISON: {**extra[COMPARISON], "shadow_of": f"s{number}", "overlap": overlap}}
            opened.write(RetrievalRecord(query_id=f"u{number}", hits=hits(unseen), extra=unseen_of, **record))
    return path


def test_sentence_slices_and_plot(log: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    result = runner.invoke(app, ["compare-live", str(log), "--name", HOSTILE, "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    assert "B is better than A: +1.000 credit per query (95% interval +" in " ".join(result.stdout.split())
    assert "you may stop and publish B." in " ".join(result.stdout.split())
    assert "\x1b[31m" not in result.stdout
    drawing = plot.read_text(encoding="utf-8")
    assert re.match(r'<\?xml[^>]*>\n<svg class="wide" role="img" [^>]*xmlns="http://www.w3.org/2000/svg"', drawing)
    assert "<script" not in drawing
    values = json.loads(runner.invoke(app, ["compare-live", str(log), "--name", HOSTILE, "--json"]).stdout)
    assert values["winner"] == "b"
    assert len(values["series"]) == 40


def test_judge_file_does_not_say_whose_results_they_are(log: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "manifest.json", {"format_version": 2})
    examples = (TrainingExample("q", "a query", ("x",)),)
    TrainingData(examples=examples, memories={"x": "=1+1", "y": "text of y"}).save(run / "training_data.json")
    out = tmp_path / "judge.csv"
    result = runner.invoke(app, ["compare-live", str(log), "--name", "before", "--judge", str(out), "--run", str(run)])
    assert result.exit_code == 0, result.output
    assert "Rankings differ on 2 queries, with a mean rank-biased overlap of 0.35." in result.stdout
    rows = [*csv.DictReader(out.open(encoding="utf-8"))]
    assert [row["query_id"] for row in rows] == ["s1"] * 4 + ["s0"] * 2  # the least overlap first
    assert {row["node_id"] for row in rows[:4]} == {"x", "y", "v", "w"}
    assert {row["value"] for row in rows} == {""}
    assert {row["node_id"]: row["text"] for row in rows} == {"x": "'=1+1", "y": "text of y", "v": "", "w": ""}
    assert {row["query"] for row in rows} == {"'=HYPERLINK(1)"}
    judged = [{**row, "value": 1 if row["node_id"] == "v" else ""} for row in rows]
    with out.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(judged)
    assert runner.invoke(app, ["feedback", str(log), str(out), "--source", "judge"]).exit_code == 0
    values = json.loads(runner.invoke(app, ["compare-live", str(log), "--name", "before", "--json"]).stdout)
    assert values["wins"] == {"a": 0, "b": 1}
    lines = tmp_path / "judge.jsonl"
    runner.invoke(app, ["compare-live", str(log), "--name", "before", "--judge", str(lines)])
    assert [json.loads(line)["query_id"] for line in lines.read_text().splitlines()] == ["s1"] * 4 + ["s0"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "several comparisons"),
        (["--name", "none"], "has no comparison 'none'"),
        (["--name", "before", "--alpha", "2"], "must be between 0 and 1"),
        (["--name", "before", "--plot", "x.svg"], "needs two queries"),
        (["--name", "before", "--run", "x"], "give --judge"),
        (["--name", HOSTILE, "--judge", "x.csv"], "not one of a ShadowRetriever"),
    ],
)
def test_user_errors_are_one_sentence(log: Path, options: list[str], message: str) -> None:
    result = runner.invoke(app, ["compare-live", str(log), *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_file_that_is_no_log(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.write_text("text")
    for path in (other, tmp_path / "none.db", tmp_path):
        assert runner.invoke(app, ["compare-live", str(path)]).exit_code == 2
