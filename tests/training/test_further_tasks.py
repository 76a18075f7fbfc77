"""Further datasets and derived tasks in a training."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick_training import QUICK
from safetensors.numpy import load_file
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.cli.flags import training_flags
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.held_out import HeldOut
from llama_index_ace_finetune.datasets.splits.unseen_queries import unseen_queries
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError, TrainingError
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.data.further_tasks import further_tasks, read_further
from llama_index_ace_finetune.training.data.task import TrainingTask
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.model_selection.task_results import task_mrr

NOTHING = HeldOut(frozenset(), frozenset())


def rows(count: int) -> list[dict[str, str]]:
    """Three queries about each memory, in words of their own."""
    parts = ["valve", "pump", "belt", "rotor", "shaft", "fan", "seal", "gear", "pipe", "lamp", "cable", "motor"]
    asked = ["who replaces the {}", "when was the {} inspected", "is a spare {} in stock"]
    return [
        {"query": asked[number % 3].format(parts[number // 3]), "positive": f"The {parts[number // 3]} is serviced."}
        for number in range(count)
    ]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "plant <b>.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(36)), encoding="utf-8")
    return path


def test_a_further_dataset_is_a_task_with_its_own_corpus_and_dev(other: Path) -> None:
    (task,) = further_tasks([str(other)], NOTHING, train_split=0.75, seed=0)
    assert task.name == "plant <b>.jsonl"
    assert len(task.examples.corpus) == 12
    assert task.dev is not None
    assert len(task.examples.queries) + len(task.dev.queries) == 36
    # No memory is relevant to queries of both parts.
    positives = [
        {part.corpus[row] for relevant in part.relevant for row in relevant} for part in (task.examples, task.dev)
    ]
    assert positives[0].isdisjoint(positives[1])


def test_training_data_keep_their_own_split(training_data: TrainingData, tmp_path: Path) -> None:
    training_data.save(tmp_path / "data.json")
    (task,) = further_tasks([str(tmp_path / "data.json")], NOTHING, train_split=0.8, seed=0)
    assert (len(task.examples.queries), task.dev and len(task.dev.queries)) == (40, 20)
    assert all(len(negatives) for negatives in task.examples.negatives)


def test_two_files_of_one_name_are_told_apart(other: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    copy = tmp_path / "b" / other.name
    copy.write_bytes(other.read_bytes())
    names = [task.name for task in further_tasks([str(other), str(copy)], NOTHING, train_split=0.8, seed=0)]
    assert names == ["plant <b>.jsonl", "plant <b>.jsonl (2)"]


def test_held_out_queries_of_the_main_data_leave_it(
    other: Path, training_data: TrainingData, caplog: pytest.LogCaptureFixture
) -> None:
    dev, test = training_data.examples_of("dev")[0], "how long may the test query of the main data be kept?"
    leaks = [
        {"query": dev.query.upper(), "positive": "The dial is read."},
        {"query": test.replace("may", "must may"), "positive": "The dial is read."},
        {"query": "an unrelated question", "positive": training_data.memories[dev.positive_ids[0]]},
    ]
    with other.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in leaks)
    tuner = EmbeddingFineTuner(TrainingConfig(also=(str(other),), **QUICK))
    with caplog.at_level(logging.WARNING):
        tuner.load_training_data(training_data, held_out_queries=[test])
    assert tuner._inputs is not None
    (task,) = tuner._inputs.further
    assert task.left_out == {"held_out_query": 2, "held_out_answer": 1}
    assert "2 with a held-out query, 1 with a held-out answer" in caplog.text
    seen = {*task.examples.queries, *(task.dev.queries if task.dev else ())}
    assert len(seen) == 36
    assert seen.isdisjoint(row["query"] for row in leaks)


@pytest.mark.parametrize("content", [None, "{", "", "rows"])
def test_a_further_dataset_without_material_is_one_sentence(
    training_data: TrainingData, tmp_path: Path, content: str | None
) -> None:
    training_data.save(tmp_path / "data.json")
    also = tmp_path / "also.jsonl"
    if content == "rows":  # all of them held out
        held = [{"query": one.query, "positive": "The dial is read."} for one in training_data.examples_of("dev")]
        also.write_text("".join(json.dumps(row) + "\n" for row in held), encoding="utf-8")
    elif content is not None:
        also.write_text(content, encoding="utf-8")
    arguments = ["train", "--training-data", tmp_path / "data.json", "--out", tmp_path / "model", "--also", also]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 2, done.output
    assert done.stderr.strip().count("\n") <= (1 if content == "rows" else 0)  # a warning names the lost rows
    assert "also.jsonl" in done.stderr
    assert not (tmp_path / "model").exists()


def test_options_become_settings(tmp_path: Path) -> None:
    given = training_flags({"also": ["a.json,b", "c"], "tasks": ["category,paraphrases"], "mode": None})
    config = TrainingConfig(**given)
    assert (config.also, config.tasks) == (("a.json", "b", "c"), ("category", "paraphrases"))
    config.save(tmp_path / "config.json")
    assert TrainingConfig.load(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"also": "a.json"}, "also"),
        ({"also": ("",)}, "also"),
        ({"tasks": ("colour",)}, "tasks"),
        ({"tasks": "category"}, "tasks"),
        ({"task_temperature": 0.0}, "task_temperature"),
        ({"also": ("a.json",), "mode": "linear"}, "also"),
        ({"tasks": ("category",), "keep_index": True}, "tasks"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(AceFinetuneError, match=f"^The training setting {named} is .*; it must be"):
        TrainingConfig(**settings)


def test_a_task_is_ranked_in_its_roles(minilm: Encoder) -> None:
    found = index_examples(TrainingData((), {"a": "red", "b": "blue", "c": "green"}), ())
    examples = dataclasses.replace(
        found,
        query_ids=("a", "b"),
        queries=("red", "blue"),
        relevant=(np.array([1]), np.array([0])),
        negatives=(np.empty(0, np.int64),) * 2,
        own=np.array([0, 1]),
    )
    task = TrainingTask(name="colours", examples=examples, dev=examples, query_role="document", derived=True)
    vectors = minilm.encode_documents(["red", "blue", "green"])
    cosines = vectors @ vectors.T
    expected = [1.0 if cosines[0, 1] > cosines[0, 2] else 0.5, 1.0 if cosines[1, 0] > cosines[1, 2] else 0.5]
    found_mrr = task_mrr(task, minilm)
    assert found_mrr is not None
    assert found_mrr.tolist() == expected


def test_tasks_are_trained_and_each_is_reported_by_itself(
    training_data: TrainingData,
    one_layer: str,
    other: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = {**QUICK, "interpolation": (1.0,)}
    config = TrainingConfig(
        output_dir=str(tmp_path / "model"),
        base_model=one_layer,
        also=(str(other),),
        tasks=("paraphrases", "duplicates"),
        **options,
    )
    tuner = EmbeddingFineTuner(config, checkpoints=tmp_path / "checkpoints")
    tuner.load_training_data(training_data)
    tuner.initialize_model()
    with caplog.at_level(logging.WARNING):
        metrics = tuner.train()
    assert "the task 'duplicates' is left out" in caplog.text
    further, paraphrases = metrics["tasks"]
    assert (further["name"], further["derived"], paraphrases["name"]) == (other.name, False, "paraphrases")
    # 40 main queries are 5 batches of 8, in one epoch.
    sizes = [40, further["queries"], paraphrases["queries"]]
    roots = np.sqrt(sizes)
    assert [further["probability"], paraphrases["probability"]] == pytest.approx(roots[1:] / roots.sum(), abs=1e-5)
    assert metrics["total_steps"] == 5 + sum(round(5 * root / roots[0]) for root in roots[1:])
    assert metrics["epochs"] == 1
    for task in metrics["tasks"]:
        difference = task["tuned_mrr@10"] - task["base_mrr@10"]
        assert task["difference_mrr@10"]["mean"] == pytest.approx(difference)
    record = read_provenance(tmp_path / "model")
    assert record is not None
    assert record["metrics"]["tasks"] == metrics["tasks"]
    assert record["config"]["also"] == [other.name]
    assert str(tmp_path) not in json.dumps(record["config"]["also"])
    # An evaluation on the further data leaves out what was trained on; the main data's dev is still unseen.
    seen = set(record["seen"]["train"]["query_hashes"])
    assert tuner._inputs is not None
    (task,), dev = tuner._inputs.further, tuner._inputs.dev
    assert {text_hash(text) for text in task.examples.queries} <= seen
    assert dev is not None
    assert seen.isdisjoint(text_hash(text) for text in dev.examples.queries)
    assert task.dev is not None
    assert set(unseen_queries(read_dataset(other), record).test) == set(task.dev.query_ids)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "## Further tasks" in card
    assert "| plant _b_.jsonl |" in card
    # Other rows under the same path are another training.
    other.write_text("".join(json.dumps(row) + "\n" for row in rows(33)), encoding="utf-8")
    again = EmbeddingFineTuner(config, checkpoints=tmp_path / "checkpoints")
    again.load_training_data(training_data)
    again.initialize_model()
    with pytest.raises(TrainingError, match="other data or settings"):
        again.train()


@pytest.mark.slow
def test_interrupted_training_of_several_tasks_is_resumed(
    training_data: TrainingData, one_layer: str, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_index_ace_finetune.training.loop.fit._SAVED_SECONDS", 0.01)  # after every step

    def train(name: str, stop_at: int | None = None) -> list[int]:
        settings = {**QUICK, "epochs": 2, "interpolation": (1.0,), "also": (str(other),), "tasks": ("paraphrases",)}
        config = TrainingConfig(output_dir=str(tmp_path / name), base_model=one_layer, **settings)
        tuner = EmbeddingFineTuner(config, checkpoints=tmp_path / f"{name}.work")
        tuner.load_training_data(training_data)
        tuner.initialize_model()
        steps: list[int] = []

        def progress(step: int, total: int, latest: object) -> None:
            steps.append(step)
            if step == stop_at:
                raise KeyboardInterrupt

        if stop_at is None:
            tuner.train(progress=progress)
        else:
            with pytest.raises(KeyboardInterrupt):
                tuner.train(progress=progress)
        return steps

    whole = train("whole")
    train("interrupted", stop_at=len(whole) // 2 + 3)  # in the second epoch
    resumed = train("interrupted")
    assert len(whole) // 2 < resumed[0] <= len(whole) // 2 + 3
    assert resumed[-1] == whole[-1]
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    for name, value in load_file(tmp_path / "interrupted" / "model.safetensors").items():
        assert (value == weights[name]).all(), name


def test_unreadable_further_data_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        read_further(tmp_path / "nowhere.json")
