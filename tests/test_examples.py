"""The examples run from the command line and print the expected output."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.serving_files import write_run, write_tuned_model

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FIGURES = re.compile(r"^  (\S.*?)\s+MRR@10 (\d\.\d{3})$", re.MULTILINE)
SYSTEMS = [
    "BM25",
    "base",
    "base + BM25",
    "base + BM25, dev weights",
    "base + BM25, convex",
    "tuned",
    "tuned + BM25",
    "tuned + BM25, dev weights",
    "tuned + BM25, convex",
]


def run_example(name: str, *arguments: object, cwd: Path) -> str:
    """Run an example in the folder `cwd`; return its output."""
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout


class TestQuickstart:
    @pytest.mark.slow
    def test_on_a_small_suite(self, small_suite: Path, tmp_path: Path) -> None:
        printed = run_example("quickstart.py", "--data", small_suite, "--epochs", 1, cwd=tmp_path)
        assert "12 memories, 60 queries" in printed
        assert re.search(r"train \d+, dev \d+, test \d+", printed)
        assert re.search(r"\d+ training examples, [1-9]\d* hard negatives", printed)
        assert [name for name, _ in FIGURES.findall(printed) if name in SYSTEMS] == SYSTEMS
        assert re.search(r"^(SHIP|KEEP|DO NOT SHIP|USE)\b.*: ", printed, re.MULTILINE)
        hits = printed.split("push notification shows up twice\n")[1].splitlines()
        assert len(hits) == 3
        assert all(re.match(r"  \[[01]\.\d{3}\] \S", hit) for hit in hits)
        assert (tmp_path / "quickstart" / "model" / "ace_finetune.json").is_file()

    @pytest.mark.slow
    def test_unchanged(self, tmp_path: Path) -> None:
        printed = run_example("quickstart.py", cwd=tmp_path)
        assert "240 memories, 1200 queries" in printed
        figures = {name: float(value) for name, value in FIGURES.findall(printed)}
        assert figures["tuned"] > figures["base"]
        best = printed.split("push notification shows up twice\n")[1].splitlines()[0]
        assert "receives every notification twice" in best


class TestQueryEngine:
    @pytest.mark.slow
    def test_without_a_run_folder(self, tmp_path: Path) -> None:
        printed = run_example("rag_query_engine.py", cwd=tmp_path)
        assert "no run folder given" in printed
        assert printed.count("before: Context information is below.") == 3
        assert printed.count("after: Context information is below.") == 3
        assert printed.count("served by base") == 9
        assert "served: {'base': 3}" in printed
        # BM25 finds what dense search misses.
        before, after = printed.split("users logged out every hour\n")[1].split("  after:")[:2]
        assert "Two tabs refreshing at once" not in before
        assert "Two tabs refreshing at once" in after.splitlines()[1]

    @pytest.mark.slow
    def test_with_a_run_folder_without_its_model(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", write_tuned_model(tmp_path / "tuned"))
        shutil.rmtree(run / "model")
        printed = run_example("rag_query_engine.py", run, cwd=tmp_path)
        assert "no run folder given" not in printed
        assert "served by baseline" in printed
        assert "served by finetuned" not in printed
        assert "served: {'baseline': 3}" in printed


class TestTenQuestions:
    @pytest.mark.slow
    def test_without_a_run_folder(self, tmp_path: Path) -> None:
        printed = run_example("ten_questions.py", cwd=tmp_path)
        for title in ("before ", "after  "):
            answered = rf"^  {title} relevant memory (?:at rank \d+|not found); first: \S"
            assert len(re.findall(answered, printed, re.MULTILINE)) == 10
        summary = r"^(before|after) +relevant memory at rank 1: (\d+) of 10, in the top 10: (\d+)$"
        counts = re.findall(summary, printed, re.MULTILINE)
        assert [title for title, *_ in counts] == ["before", "after"]
        assert all(1 <= int(first) <= int(among) for _, first, among in counts)

    def test_each_question_has_one_relevant_memory(self, demo_suite: Path) -> None:
        source = (EXAMPLES / "ten_questions.py").read_text(encoding="utf-8")
        answers = re.findall(r"\\t(.+)$", source.split('QUESTIONS = """')[1].split('"""')[0], re.MULTILINE)
        contents = [case["content"] for case in json.loads(demo_suite.read_text(encoding="utf-8"))["test_cases"]]
        assert [sum(answer in content for content in contents) for answer in answers] == [1] * 10

    @pytest.mark.slow
    def test_own_questions_with_a_run(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", write_tuned_model(tmp_path / "tuned"))
        questions = tmp_path / "questions.txt"
        questions.write_text("big uploads time out\n\nwho rotates keys?\tsigning keys\n", encoding="utf-8")
        printed = run_example("ten_questions.py", run, "--questions", questions, cwd=tmp_path)
        assert "big uploads time out\n  before  " in printed
        assert len(re.findall(r"relevant memory (?:at rank \d+|not found); first", printed)) == 2
        assert "after   relevant memory at rank 1: " in printed


class TestIntegrations:
    @pytest.mark.slow
    def test_fusion_and_routing(self, tmp_path: Path) -> None:
        printed = run_example("fusion_and_routing.py", cwd=tmp_path)
        for title in ("hybrid", "fused", "routed"):
            first = printed.split(f"\n{title}\n")[1].splitlines()[0]
            assert "receives every notification twice" in first
        assert "served: {'base': 4}" in printed

    @pytest.mark.slow  # two processes that import torch
    def test_ingestion_with_two_workers(self, tmp_path: Path) -> None:
        printed = run_example("ingestion.py", cwd=tmp_path)
        assert re.search(r"^\d nodes from 4 documents", printed)
        before, after = printed.split("customer was charged twice")[1:3]
        assert "payments: # Retries" in before.splitlines()[1]
        assert "payments" not in after.split("where do")[0]
        assert re.findall(r"\] (\w+):", printed.split("where do the backups go?")[1]) == ["backups"] * 2

    @pytest.mark.slow
    def test_an_adopted_collection(self, tmp_path: Path) -> None:
        printed = run_example("adopt_collection.py", cwd=tmp_path)
        parts = dict(part.split("\n", 1) for part in printed.strip().split("\n\n") if "\n" in part)
        assert all(parts[title].splitlines()[0].split()[1] == "payments:" for title in ("LlamaIndex", "adopted"))
        assert parts["LlamaIndex, after"] == parts["LlamaIndex"]
        assert "refunds:" in parts["adopted, with what LlamaIndex wrote since"]
        assert printed.endswith("served: {'base': 1}\n")

    @pytest.mark.slow
    def test_llama_index_evaluator(self, tmp_path: Path) -> None:
        printed = run_example("evaluate_retriever.py", "--queries", 30, cwd=tmp_path)
        figures = r"^(.+?)\s+MRR@10 \d\.\d{3}  hit rate (\d\.\d{3})  \(30 queries\)$"
        rates = dict(re.findall(figures, printed, re.MULTILINE))
        assert rates.keys() == {"vector index", "hybrid"}
        assert float(rates["hybrid"]) > 0.6

    @pytest.mark.slow
    def test_chat_engine(self, tmp_path: Path) -> None:
        printed = run_example("chat_engine.py", cwd=tmp_path)
        assert printed.count("    [") == 6
        assert "receives every notification twice" in printed

    @pytest.mark.slow
    def test_nodes_to_retriever(self, tmp_path: Path) -> None:
        printed = run_example("nodes_to_retriever.py", "--memories", 24, "--out", "made", cwd=tmp_path)
        assert "24 nodes, 120 queries" in printed
        assert re.search(r"^selected on dev: (base|linear)$", printed, re.MULTILINE)
        assert re.search(r"^(SHIP|KEEP|DO NOT SHIP|USE)\b.*: ", printed, re.MULTILINE)
        hits = re.findall(r"^  \[[01]\.\d{3}\] (note-\d+) \S", printed, re.MULTILINE)
        trained = json.loads((tmp_path / "made" / "training_data.json").read_text(encoding="utf-8"))
        assert len(hits) == 3
        assert set(hits) <= set(trained["memories"])
        assert all(text.startswith("category: ") for text in trained["memories"].values())  # as LlamaIndex embeds it

    @pytest.mark.slow
    def test_living_index(self, tmp_path: Path) -> None:
        printed = run_example("living_index.py", cwd=tmp_path)
        parts = dict(part.split("\n", 1) for part in printed.strip().split("\n\n") if "\n" in part)
        assert "first Monday" in parts["built"]
        assert parts["refreshed"].splitlines()[0].endswith("Restore drills run every Friday.")
        assert re.findall(r"\] (\w+)", parts["filtered"]) == ["Retry"]
        assert "Retry" not in parts["without payments"]
        assert "every Friday" in parts["by notes.v2"]
        assert printed.endswith("rolled back to notes.v1\n")
