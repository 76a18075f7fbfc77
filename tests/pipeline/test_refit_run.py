"""Runs that train the selected mode once more: what ships, what was measured, and what each part says of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.errors import LeakageError
from llama_index_ace_finetune.evaluation.report.report import read_report
from llama_index_ace_finetune.evaluation.systems import EncodedSet, EvaluationSet
from llama_index_ace_finetune.pipeline.audit import audit
from llama_index_ace_finetune.pipeline.compare import compare
from llama_index_ace_finetune.pipeline.evaluate import evaluate
from llama_index_ace_finetune.pipeline.vector_formats import compare_vector_formats
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.run_folder import RunFolder

SCRIPT = """
import sys
from contextlib import nullcontext
from pathlib import Path
import torch
torch.set_num_threads(1)
import llama_index_ace_finetune as ace
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.training.loop import fit
from llama_index_ace_finetune.training.model_selection import interpolation

fit._SAVED_SECONDS = 0.01  # after every step
# A refit needs a selection other than the base, whatever some dev queries say.
sure = PairedDifference(mean=0.1, low=0.05, high=0.2, p_value=0.01, wins=3, ties=1, losses=0)
interpolation.paired_difference = lambda *_, **__: sure
data, out, base, refit, query_ms = sys.argv[1:]

class Events(PipelineEvents):
    mode = ""

    def on_message(self, text):
        self.mode = "refit " if text.startswith("refit: ") else ""
        print(text, flush=True)

    def steps_progress(self, label):
        return nullcontext(lambda step, total, latest: print(f"{self.mode}step {step}", flush=True))

made = ace.run(
    RunSettings(
        data=Path(data), out=Path(out), resume=True, query_ms=float(query_ms) if query_ms else None,
        training=ace.TrainingConfig(
            base_model=base, mode="full", epochs=2, batch_size=16, budget_minutes=None, interpolation=(1.0,),
            max_seq_length=32, device="cpu", precision="float32", refit=refit,
        ),
    ),
    events=Events(),
)
print("stages", *made.stages)
"""


def run(suite: Path, out: Path, base: str, refit: str, query_ms: str = "", *, kill_at: str = "") -> str:
    """Run in a process of its own, killed after a line of its output, if one is given; return the output."""
    command = [sys.executable, "-c", SCRIPT, str(suite), str(out), base, refit, query_ms]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.strip() == kill_at:
                os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == (-signal.SIGKILL if kill_at else 0), "".join(lines)
    return "".join(lines)


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = (load_file(path / "model.safetensors") for path in (one, other))
    return all((ours[name] == weights).all() for name, weights in theirs.items())


def trained_on(model: Path) -> set[str]:
    record = read_provenance(model)
    assert record is not None
    return set(record["seen"]["train"]["query_hashes"])


def means(report: dict[str, Any]) -> dict[str, Any]:
    return {system["name"]: system["means"] for system in report["systems"]}


@pytest.fixture(scope="module")
def refitted_on_dev(suite: Path, one_layer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "on_dev"
    assert "stages mine train evaluate index" in run(suite, out, one_layer, "dev")
    return out


@pytest.fixture(scope="module")
def refitted_on_all(suite: Path, one_layer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "on_all"
    run(suite, out, one_layer, "all")
    return out


@pytest.mark.slow
def test_selected_weights_choose_and_refitted_ones_are_tested_and_served(refitted_on_dev: Path, suite: Path) -> None:
    folder, dataset = RunFolder.open(refitted_on_dev), read_dataset(suite)
    split, report = Split.load(folder.split), read_report(folder.report)
    dev, test = ({split.query_hashes[i] for i in split.part(part)} for part in ("dev", "test"))
    assert dev < trained_on(folder.model)
    assert dev.isdisjoint(trained_on(folder.selected))
    assert test.isdisjoint(trained_on(folder.model))
    assert not same_weights(folder.model, folder.selected)

    def mrr(model: Path, queries: tuple[str, ...]) -> float:
        data = EvaluationSet.of(dataset, queries)
        vectors = EncodedSet.of(data, Encoder.load(model))
        ranks = (-(vectors.queries @ vectors.corpus.T)).argsort(axis=1, kind="stable")
        first = [min(list(row).index(r) for r in rows) for row, rows in zip(ranks, data.relevant, strict=True)]
        return sum(1 / (1 + rank) for rank in first if rank < 10) / len(first)

    assert means(report)["tuned"]["MRR@10"] == pytest.approx(mrr(folder.model, split.test), abs=1e-5)
    on_dev = {one["name"]: one["mrr"] for one in report["choice"]["candidates"]}
    assert on_dev["tuned"] == pytest.approx(mrr(folder.selected, split.dev), abs=1e-5)

    assert report["training"]["metrics"]["refit"]["ships"]
    assert folder.read_manifest()["refit"]["on"] == "dev"
    page = folder.report.with_suffix(".html").read_text(encoding="utf-8")
    assert "Figures on dev are of the weights that were selected on dev and trained on the train queries only" in page
    card = (folder.model / "README.md").read_text(encoding="utf-8")
    assert "Test results are those of the weights in this folder." in card
    assert "model-index" in card
    # The memories were embedded by the refitted weights.
    retriever = FineTunedHybridRetriever.from_run(folder.path, fallback="off")
    assert retriever.retrieve(dataset.queries[split.test[0]].text)
    retriever.close()


@pytest.mark.slow
def test_later_evaluation_and_audit_know_what_a_refit_on_dev_was_trained_on(
    refitted_on_dev: Path, suite: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder.open(refitted_on_dev)
    report = read_report(folder.report)
    again = evaluate(suite, folder.model, device="cpu", precision="float32").report
    assert means(again)["tuned"] == means(report)["tuned"]
    candidates = [{one["name"]: one["mrr"] for one in which["choice"]["candidates"]} for which in (again, report)]
    assert candidates[0] == pytest.approx(candidates[1])
    found = audit(folder.path)
    split = Split.load(folder.split)
    assert found.passed
    assert (found.count("model_dev"), found.count("model_test")) == (len(split.dev), 0)
    assert (found.count("selected_model_dev"), found.count("selected_model_test")) == (0, 0)
    compare_vector_formats(folder.path)
    assert "was trained on these dev queries too" in caplog.text


@pytest.mark.slow
def test_killed_refit_of_a_run_is_resumed(refitted_on_dev: Path, suite: Path, one_layer: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(suite, out, one_layer, "dev", kill_at="refit step 4")
    assert not out.exists()
    resumed = [line for line in run(suite, out, one_layer, "dev").splitlines() if line.startswith("refit step")]
    assert resumed[0] in ("refit step 4", "refit step 5")
    for model in ("model", "selected"):
        assert same_weights(out / model, refitted_on_dev / model)
    reports = [read_report(RunFolder(folder).report) for folder in (out, refitted_on_dev)]
    assert means(reports[0])["tuned"] == means(reports[1])["tuned"]
    # Another limit is chosen within by the weights that are kept for it.
    selected = (out / "selected" / "ace_finetune.json").read_bytes()
    assert "stages evaluate index" in run(suite, out, one_layer, "dev", "1000")
    assert (out / "selected" / "ace_finetune.json").read_bytes() == selected
    assert read_report(RunFolder(out).report)["training"]["metrics"]["refit"]["ships"]


@pytest.mark.slow
def test_refit_on_all_queries_ships_and_the_weights_before_it_are_measured(
    refitted_on_all: Path, refitted_on_dev: Path, suite: Path
) -> None:
    folder, dataset = RunFolder.open(refitted_on_all), read_dataset(suite)
    report = read_report(folder.report)
    split = Split.load(folder.split)
    everything = {split.query_hashes[i] for part in split.held_parts for i in split.part(part)}
    assert everything == trained_on(folder.model)
    assert {split.query_hashes[i] for i in split.train} == trained_on(folder.selected)
    # What is measured is what a run without a refit would ship, and what a refit on dev was selected as.
    assert same_weights(folder.selected, refitted_on_dev / "selected")
    assert not same_weights(folder.selected, folder.model)
    measured = evaluate(suite, folder.selected, device="cpu", precision="float32").report
    assert means(measured)["tuned"] == means(report)["tuned"]
    assert report["finetuned"]["model"] == "selected"

    with pytest.raises(LeakageError, match="trained on every query of its data"):
        evaluate(suite, folder.model, device="cpu")
    found = audit(folder.path)
    assert found.passed
    assert found.count("model_test") == len(split.test) + len(split.test_known)
    assert found.count("selected_model_test") == 0
    assert any("trained on every query afterwards" in one for one in compare([folder.path, refitted_on_dev]).warnings)

    page = folder.report.with_suffix(".html").read_text(encoding="utf-8")
    assert "That model is served, and was not measured" in page
    card = (folder.model / "README.md").read_text(encoding="utf-8")
    assert "The weights in this folder have not been measured." in card
    assert "model-index" not in card
    assert "model-index" in (folder.selected / "README.md").read_text(encoding="utf-8")
    assert json.loads(folder.manifest.read_text(encoding="utf-8"))["refit"]["on"] == "all"
    retriever = FineTunedHybridRetriever.from_run(folder.path, fallback="off")
    assert retriever.retrieve(dataset.queries[split.test[0]].text)
    retriever.close()
