"""inspect, the dry run and the run take the same data and refuse the same data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.pipeline import plan

runner = CliRunner()

_PLACES = ("attic", "barn", "cellar", "dairy", "engine room", "forge", "garage", "hall", "island", "jetty", "kitchen",
           "loft", "mill", "nursery", "orchard", "pantry", "quarry", "refectory", "stable", "tower")  # fmt: skip
_PAIRS = [
    (f"what is kept in the {place}", f"Number {n}: {place[::-1]} goods, seen by {place} keepers.")
    for n, place in enumerate(_PLACES)
]


def _json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _rows(**more: Any) -> list[dict[str, Any]]:
    return [{"query": query, "answer": answer, **more} for query, answer in _PAIRS]


def _beir(folder: Path, queries: list[str], qrels: str) -> Path:
    folder.mkdir()
    _json_lines(folder / "corpus.jsonl", [{"_id": f"d{n}", "text": text} for n, (_, text) in enumerate(_PAIRS)])
    _json_lines(folder / "queries.jsonl", [{"_id": f"q{n}", "text": text} for n, text in enumerate(queries)])
    (folder / "qrels.tsv").write_text(qrels)
    return folder


def _table(path: Path, mark: str, header: str) -> Path:
    path.write_text(header + "\n" + "".join(f"{query}{mark}{answer}{mark}\n" for query, answer in _PAIRS))
    return path


def _unquoted(folder: Path) -> Path:
    rows = "".join(f'"{query}\t{answer}\n' for query, answer in _PAIRS)
    (folder / "p.tsv").write_text(f"query\tanswer\n{rows}")
    return folder / "p.tsv"


def _own_documents(folder: Path) -> Path:
    target = _beir(folder / "set", [], "")
    texts = [text for _, text in _PAIRS] + [query for query, _ in _PAIRS]
    _json_lines(target / "corpus.jsonl", [{"_id": f"d{n}", "text": text} for n, text in enumerate(texts)])
    _json_lines(target / "queries.jsonl", [{"_id": f"d{n + 20}", "text": query} for n, (query, _) in enumerate(_PAIRS)])
    (target / "qrels.tsv").write_text("".join(f"d{n + 20}\td{n}\t1\n" for n in range(len(_PAIRS))))
    return target


_QUERIES = [query for query, _ in _PAIRS]
_QRELS = "".join(f"q{n}\td{n}\t1\t{9 - n % 9}\n" for n in range(len(_PAIRS)))

_TAKEN: dict[str, Callable[[Path], Path]] = {
    "table without quotes": _unquoted,
    "semicolons and capitals": lambda f: _table(f / "p.csv", ";", "Question;Answer;"),
    "empty columns": lambda f: _table(f / "p.csv", "|", "query|answer|"),
    "own documents": _own_documents,
    "fourth column": lambda f: _beir(f / "s", _QUERIES, f"query-id\tcorpus-id\tscore\tjudge\n{_QRELS}"),
    "dangling judgements": lambda f: _beir(f / "s", _QUERIES, f"query-id\tcorpus-id\tscore\n{_QRELS}q1\td99\t1\n"),
    "lists of categories": lambda f: _json_lines(f / "p.jsonl", _rows(category=["net", "vpn"], difficulty=0.3)),
    "objects as categories": lambda f: _json_lines(f / "p.jsonl", _rows(category={"a": [1]}, difficulty=["hard"])),
    "similarities": lambda f: _json_lines(f / "p.jsonl", _rows(score=0.8)),
    "negatives": lambda f: _json_lines(f / "p.jsonl", _rows(hard_negatives=["Nothing there."], easy_negatives=[])),
    "answers and contexts": lambda f: _json_lines(f / "p.jsonl", [{**r, "context": r["answer"] * 2} for r in _rows()]),
    "bad rows": lambda f: _json_lines(f / "p.jsonl", [*_rows(), {"query": 3}, {"answer": None}]),
}
_QUICK = {"table without quotes", "own documents", "fourth column", "lists of categories", "bad rows"}
_REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one answer for all": (
        lambda f: _json_lines(f / "p.jsonl", [{"query": q, "answer": [a, "Read the sign."]} for q, a in _PAIRS]),
        "have the relevan",
    ),
    "ids without texts": (
        lambda f: _json_lines(f / "p.jsonl", [{"query": q, "memory_id": f"m{n}"} for n, (q, _) in enumerate(_PAIRS)]),
        "give the texts of these ids",
    ),
    "no usable row": (lambda f: _json_lines(f / "p.jsonl", [{"query": None, "answer": "x"}] * 3), "is null"),
    "unknown ids": (lambda f: _beir(f / "s", _QUERIES, "x1\ty1\t1\n"), "none of 1 judgement"),
    "no query": (lambda f: _table(f / "p.csv", ",", "one,two,"), "the columns are one, two"),
    "memories only": (lambda f: _json_lines(f / "p.jsonl", [{"id": 1, "text": "Only a text."}]), "no queries"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_MEASURED_SECONDS", 0.05)


def _invoke(verb: str, data: Path, *more: str) -> Any:
    return runner.invoke(app, [verb, "--data", str(data), *more])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in sorted(_TAKEN)]
)
def test_dry_run_accepts_what_inspect_accepts(tmp_path: Path, name: str) -> None:
    data = _TAKEN[name](tmp_path)
    seen = _invoke("inspect", data)
    assert seen.exit_code == 0, seen.output
    assert "would refuse" not in seen.output
    planned = _invoke("run", data, "--out", str(tmp_path / "run"), "--dry-run", "--mode", "linear")
    assert planned.exit_code == 0, planned.output


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_TAKEN))
def test_run_accepts_what_inspect_accepts(tmp_path: Path, name: str) -> None:
    data = _TAKEN[name](tmp_path)
    done = _invoke("run", data, "--out", str(tmp_path / "run"), "--mode", "linear")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", sorted(_REFUSED))
def test_data_refused_by_the_run_is_refused_by_all(tmp_path: Path, name: str) -> None:
    write, part = _REFUSED[name]
    data = write(tmp_path)
    for more in (["--dry-run"], []):
        refused = _invoke("run", data, "--out", str(tmp_path / "run"), *more)
        assert refused.exit_code == 2, refused.output
        assert part in refused.stderr
        assert len(refused.stderr) < 600
    seen = _invoke("inspect", data)
    if seen.exit_code == 0:
        assert "would refuse these data: " in seen.output
        assert part in seen.output
    else:
        assert seen.stderr == refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_filter_that_leaves_nothing_is_refused_by_the_dry_run(tmp_path: Path) -> None:
    data = _TAKEN["lists of categories"](tmp_path)
    options = ["--out", str(tmp_path / "run"), "--skip-categories", "vpn"]
    for more in (["--dry-run"], []):
        refused = _invoke("run", data, *options, *more)
        assert refused.exit_code == 2, refused.output
        assert "no training query matches the filters" in refused.stderr


@pytest.mark.parametrize("verb", ["inspect", "run", "generate", "evaluate", "index", "audit"])
def test_every_verb_that_reads_data_takes_columns(verb: str, tmp_path: Path) -> None:
    data = _table(tmp_path / "p.csv", ",", "wonder,remedy,")
    (tmp_path / "split.json").write_text("{}")
    more: dict[str, list[str]] = {
        "run": ["--out", str(tmp_path / "run"), "--dry-run"],
        "generate": ["--output", str(tmp_path / "t.json")],
        "evaluate": ["--model", DEFAULT_BASE_MODEL, "--output", str(tmp_path / "r.json")],
        "index": ["--model", str(tmp_path / "m")],
    }
    words = [verb, *([str(tmp_path / "split.json")] if verb == "audit" else []), "--data", str(data)]
    result = runner.invoke(app, [*words, *more.get(verb, []), "--columns", "query=wonder,text=remedi"])
    assert result.exit_code == 2
    if verb != "audit":  # which reads the split first
        assert "is it 'remedy'" in result.stderr


def test_run_folder_records_columns(tmp_path: Path) -> None:
    data = _table(tmp_path / "p.csv", ",", "wonder,remedy,")
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {data}\nout: {tmp_path / 'run'}\ncolumns: query=wonder,text=remedy\n")
    planned = runner.invoke(app, ["run", "--config", str(config), "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert runner.invoke(app, ["run", "--config", str(config), "--dry-run", "--columns", "query=x"]).exit_code == 2


def test_columns_and_memories_together(tmp_path: Path) -> None:
    log, texts = tmp_path / "log.csv", tmp_path / "texts.csv"
    log.write_text("typed,snippet\n" + "".join(f"{query},{n}\n" for n, (query, _) in enumerate(_PAIRS)))
    texts.write_text("snippet,words\n" + "".join(f'{n},"{answer}"\n' for n, (_, answer) in enumerate(_PAIRS)))
    columns = "query=typed,answer_id=snippet,text=words"
    seen = runner.invoke(app, ["inspect", "--data", str(log), "--memories", str(texts), "--columns", columns, "--json"])
    assert seen.exit_code == 0, seen.output
    statistics = json.loads(seen.stdout)
    assert (statistics["queries"], statistics["memories"], statistics["right"]) == (20, 20, 20)
    assert statistics["run_would_refuse"] is None
