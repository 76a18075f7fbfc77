"""Vectors held in fewer bytes: by hand, and `ace-finetune vectors` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import QUERIES, TEXTS, write_run, write_tuned_model
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.pipeline.vector_formats import measure_formats
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet


def dev_of(n_memories: int, answers: list[int]) -> DevSet:
    examples = [TrainingExample(f"q{n}", f"query {n}", (f"m{row}",), split="dev") for n, row in enumerate(answers)]
    data = TrainingData(examples=tuple(examples), memories={f"m{n}": f"memory {n}" for n in range(n_memories)})
    return DevSet(index_examples(data, examples))


def unit(rows: list[list[float]]) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_by_hand() -> None:
    # By all four coordinates memory 1 is nearest; by the first two, 0 and 1 are equal and 0 comes first.
    documents = unit([[1, 1, -1, -1], [1, 1, 1, 1], [-1, 1, 0.1, 0.1]])
    dev = dev_of(3, [1])
    assert dev.examples.corpus_ids == ("m0", "m1", "m2")
    forms = measure_formats(unit([[1, 1, 1, 1]]), documents, dev, [4, 2])
    assert [(form.dimension, form.held_as, form.bytes) for form in forms] == [
        (4, "float32", 16), (4, "float16", 8), (4, "int8", 8), (4, "binary, rescored", 1),
        (2, "float32", 8), (2, "float16", 4), (2, "int8", 6), (2, "binary, rescored", 1),
    ]  # fmt: skip
    assert [form.mrr for form in forms] == [1.0] * 4 + [0.5] * 4


def test_signs_select_and_vectors_rank() -> None:
    # 150 memories share all signs with the query, but only 100 are re-ranked: the positive is row 120.
    documents = np.ones((150, 8), np.float32) + np.float32(0.5) * np.eye(150, 8, dtype=np.float32)[:, ::-1]
    documents = unit(documents.tolist())
    query = documents[120:121] + np.float32(1e-3)
    forms = measure_formats(query, documents, dev_of(150, [120]), [8])
    assert {form.held_as: form.mrr for form in forms}["binary, rescored"] == 0.0
    few = measure_formats(unit([[1, 2, 1, 1]]), unit([[1, 1, 1, 1], [1, 2, 1, 1]]), dev_of(2, [1]), [4])
    assert {form.mrr for form in few} == {1.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    run = write_run(folder / "run", write_tuned_model(folder / "tuned"))
    examples = tuple(TrainingExample(f"q-{name}", query, (name,), split="dev") for name, query in QUERIES.items())
    TrainingData(examples=examples, memories=TEXTS).save(run / "training_data.json")
    return run


def ask(run: Path, *arguments: str):
    return CliRunner().invoke(app, ["vectors", str(run), *arguments])


def test_as_json(run: Path) -> None:
    done = ask(run, "--dimensions", "64, 16", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert (content["queries"], content["memories"]) == (len(QUERIES), len(TEXTS))
    by_form = {(form["dimension"], form["held_as"]): form for form in content["forms"]}
    assert sorted({dimension for dimension, _ in by_form}) == [16, 64, 384]
    assert by_form[384, "int8"]["mrr"] == pytest.approx(by_form[384, "float32"]["mrr"], abs=0.05)
    assert by_form[384, "binary, rescored"]["mrr"] == by_form[384, "float32"]["mrr"]  # twelve memories are all rescored
    assert by_form[64, "float32"]["bytes"] == 256


@pytest.mark.parametrize("columns", ["79", "80", "200"])
def test_as_a_table_with_half_and_a_quarter_by_default(
    run: Path, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    done = ask(run)
    assert done.exit_code == 0, done.output
    assert "binary, rescored" in done.stdout
    assert [length for length in ("384", "192", "96") if length in done.stdout] == ["384", "192", "96"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("many", "give whole numbers with commas"),
        ("512", "have 384 dimensions, so 512"),
        ("0", "so 0 of them"),
        ("", "''"),
    ],
)
def test_bad_input(run: Path, given: str, sentence: str) -> None:
    done = ask(run, "--dimensions", given)
    assert done.exit_code == 2
    assert sentence in " ".join(done.stderr.split())


def test_a_run_without_dev_queries(run: Path, tmp_path: Path) -> None:
    done = ask(run / "model", "--training-data", str(tmp_path / "none.json"))
    assert done.exit_code == 2
    assert "--training-data" in done.stderr
