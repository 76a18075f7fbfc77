from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.decision.verdict import reach_verdict
from llama_index_ace_finetune.evaluation.report.compare_runs import compare_runs
from llama_index_ace_finetune.evaluation.report.report import ReportContext, build_report, write_report
from llama_index_ace_finetune.evaluation.result import BASE, HYBRID_EQUAL, TUNED, Evaluation

Make = Callable[..., Evaluation]
Write = Callable[..., Path]
runner = CliRunner()


@pytest.fixture
def write(evaluation: Make, tmp_path: Path, without_plots: None) -> Write:
    """Write a report in which the served system has these ranks, and the base rank 2."""

    def write(name: str, ranks: Sequence[int], texts: Sequence[str] | None = None) -> Path:
        made = evaluation({BASE: [2] * len(ranks), TUNED: ranks}, texts=texts)
        verdict = reach_verdict(made, {"shipped": "finetuned", "rule": "a rule"})
        context = ReportContext(title=name, base_model="base-model", tuned_model="tuned-model")
        path = tmp_path / name / "report.json"
        write_report(build_report(made, verdict, context), path, evaluation=made)
        return path

    return write


def test_differences_and_spread_by_hand(write: Write) -> None:
    found = compare_runs({"one": write("one", [2] * 20), "two": write("two", [1] * 20)})
    assert found["queries"] == 20
    assert [run["means"]["MRR@10"] for run in found["runs"]] == [0.5, 1.0]
    assert [run["system"] for run in found["runs"]] == [TUNED] * 2
    difference = found["differences_to_first"]["MRR@10"]["two"]
    assert (difference["mean"], difference["low"], difference["high"], difference["wins"]) == (0.5, 0.5, 0.5, 20)
    assert difference["p_holm"] < 0.001
    assert found["spread"]["MRR@10"] == {"mean": 0.75, "deviation": pytest.approx(0.125**0.5), "seeds": 2}
    assert found["warnings"] == []


def test_different_systems_bases_or_test_sets_are_not_averaged(write: Write) -> None:
    one, two = write("one", [2] * 20), write("two", [1] * 20)
    assert compare_runs({"one": one, "two": two})["spread"]
    base = json.loads(two.read_text(encoding="utf-8"))
    base["baseline"]["model"] = "another-base"
    two.write_text(json.dumps(base), encoding="utf-8")
    base["serving"]["system"] = HYBRID_EQUAL
    three = write("three", [1] * 19)
    found = compare_runs({"one": one, "two": two, "three": three})
    assert found["spread"] == {}
    (*_, warning) = found["warnings"]
    assert warning == (
        "No mean over the runs is given, since they differ (base models: base-model, another-base, base-model; "
        "test sets: 20 queries, 20 queries, 19 queries)."
    )
    two.write_text(json.dumps({**base, "baseline": {**base["baseline"], "model": "base-model"}}), encoding="utf-8")
    found = compare_runs({"one": one, "two": two})
    assert (found["spread"], len(found["warnings"])) == ({}, 1)
    assert found["warnings"][0].endswith("compare one system of all runs with --system NAME.")
    assert compare_runs({"one": one, "two": two}, system=TUNED)["spread"]


def test_seeds_that_vary_are_named(write: Write) -> None:
    paths = {"one": write("one", [2] * 5), "two": write("two", [1] * 5)}
    seeds = {"one": {"split": 0, "mining": 1, "training": 1}, "two": {"split": 0, "mining": 2, "training": 2}}
    assert compare_runs(paths, seeds=seeds)["varied"] == {"mining": [1, 2], "training": [1, 2]}
    assert compare_runs(paths, seeds={"one": seeds["one"]})["varied"] == {}


def test_only_shared_queries_are_compared(write: Write) -> None:
    texts = [f"query {number}" for number in range(4)]
    one = write("one", [1, 2, 4, 5], texts)
    two = write("two", [2, 2, 2, 2], ["changed", *texts[1:]])
    found = compare_runs({"one": one, "two": two})
    assert found["queries"] == 3
    assert found["runs"][0]["means"]["MRR@10"] == pytest.approx((1 / 2 + 1 / 4 + 1 / 5) / 3, abs=1e-6)
    assert "Only 3 of 4 test queries are in all runs" in found["warnings"][0]


def test_system_option_compares_another_system(write: Write) -> None:
    paths = {"one": write("one", [2] * 5), "two": write("two", [1] * 5)}
    found = compare_runs(paths, system=HYBRID_EQUAL)
    assert [run["means"]["MRR@10"] for run in found["runs"]] == [0.5, 0.5]
    with pytest.raises(AceFinetuneError, match="The run one has no system 'none'; name one of BM25, base"):
        compare_runs(paths, system="none")


def test_runs_that_cannot_be_compared_are_refused(write: Write) -> None:
    one = write("one", [1])
    with pytest.raises(AceFinetuneError, match="There is only one run"):
        compare_runs({"one": one})
    with pytest.raises(AceFinetuneError, match="The runs one, two share no test query"):
        compare_runs({"one": one, "two": write("two", [1], ["other"])})
    one.with_suffix(".per_query.jsonl").unlink()
    with pytest.raises(AceFinetuneError, match="evaluate again to write it next to the report"):
        compare_runs({"one": one, "two": write("two", [1])})


def test_compare_on_the_command_line(write: Write) -> None:
    paths = [str(write(name, ranks)) for name, ranks in (("one", [2] * 5), ("two", [1] * 5), ("three", [2] * 5))]
    shown = runner.invoke(app, ["compare", *paths])
    assert shown.exit_code == 0, shown.output
    assert "5 shared test queries" in shown.output
    assert "MRR@10 over 3 runs: mean 0.667, s.d. 0.289" in shown.output
    found = json.loads(runner.invoke(app, ["compare", *paths, "--json"]).output)
    assert list(found["differences_to_first"]["MRR@10"]) == paths[1:]
    assert runner.invoke(app, ["compare", paths[0]]).exit_code == 2
    assert runner.invoke(app, ["compare", paths[0], str(Path(paths[0]).parent)]).exit_code == 2


def test_report_on_the_command_line(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("one", [1] * 20)
    page = path.with_suffix(".html")
    page.unlink()
    shown = runner.invoke(app, ["report", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "SHIP" in shown.output
    assert page.is_file()
    printed = json.loads(runner.invoke(app, ["report", str(path), "--json"]).output)
    assert printed == json.loads(path.read_text(encoding="utf-8"))
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert runner.invoke(app, ["report", str(path), "--open"]).exit_code == 0
    assert opened == [page.as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    refused = runner.invoke(app, ["report", str(path), "--open"])
    assert refused.exit_code == 2
    assert "No browser could be started" in refused.output
    for suffix in ("csv", "tex"):
        table = path.with_name(f"table.{suffix}")
        assert (
            runner.invoke(app, ["report", str(path), "--title", "Ours & <theirs>", "--table", str(table)]).exit_code
            == 0
        )
        assert "tuned" in table.read_text(encoding="utf-8")
    # The title is kept, and escaped in the page.
    assert runner.invoke(app, ["report", str(path)]).exit_code == 0
    assert "<bdi>Ours &amp; &lt;theirs&gt;</bdi>" in page.read_text(encoding="utf-8")
    assert runner.invoke(app, ["report", str(path), "--table", "table.doc"]).exit_code == 2
    for damage in ("verdict", "systems"):
        kept = {name: value for name, value in printed.items() if name != damage}
        path.write_text(json.dumps(kept), encoding="utf-8")
        damaged = runner.invoke(app, ["report", str(path)])
        assert damaged.exit_code == 2
        assert "is damaged" in damaged.output
    path.write_text("{", encoding="utf-8")
    assert runner.invoke(app, ["report", str(path)]).exit_code == 2
