"""A run with folds: what it refuses, which stages it has, and a kill in the middle of it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import llama_index_ace_finetune as ace
from llama_index_ace_finetune.datasets.splits.split import Split, split_dataset
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import Query, RetrievalDataset
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError, ModelError
from llama_index_ace_finetune.pipeline.check_run import require_models
from llama_index_ace_finetune.pipeline.events import PipelineEvents, StepsProgress
from llama_index_ace_finetune.pipeline.fold_splits import fold_splits
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages.register import stage_keys, stages_of
from llama_index_ace_finetune.training.config import TrainingConfig

PROJECT = Path(__file__).resolve().parents[2]


def settings(**changes: Any) -> RunSettings:
    return dataclasses.replace(RunSettings(data=Path("data"), out=Path("out"), folds=3), **changes)


@pytest.mark.parametrize("folds", [1, -2])
def test_one_fold_is_refused(folds: int) -> None:
    with pytest.raises(AceFinetuneError, match=f"folds is {folds}; it must be 2 or more, or 0"):
        settings(folds=folds)


def test_several_base_models_are_refused_with_folds() -> None:
    with pytest.raises(ModelError, match="one base model, and several are given"):
        require_models(settings(training=TrainingConfig(base_model="a,b")))


def test_more_folds_than_groups_are_refused(small_dataset: RetrievalDataset) -> None:
    first = split_dataset(small_dataset)
    with pytest.raises(DatasetError, match="of which 3 are in the test part of the split; choose between 2 and 10"):
        fold_splits(settings(folds=11), small_dataset)
    folds = fold_splits(settings(), small_dataset)
    tested = Counter(query for split in (first, *folds) for query in split.test)
    assert tested == Counter(list(small_dataset.queries))
    assert fold_splits(settings(folds=0), small_dataset) == []


def test_queries_with_a_part_of_their_own_are_refused(small_dataset: RetrievalDataset) -> None:
    first = next(iter(small_dataset.queries))
    query = small_dataset.queries[first]
    held = Query(query.id, query.text, {**query.metadata, "earlier_split": "test"})
    dataset = dataclasses.replace(small_dataset, queries={**small_dataset.queries, first: held})
    with pytest.raises(DatasetError, match=r"\d+ queries have a part of their own.*there is a test set already"):
        fold_splits(settings(), dataset)


def test_memories_without_queries_are_refused(small_dataset: RetrievalDataset) -> None:
    bare = dataclasses.replace(small_dataset, queries={}, judgements={})
    with pytest.raises(DatasetError, match="every query of a user once, and there are none"):
        fold_splits(settings(synthesize=10), bare)


def test_a_split_without_test_part_is_refused(small_dataset: RetrievalDataset) -> None:
    one = ace.SplitSettings(train=0.8, dev=0.2, test=0.0)
    with pytest.raises(DatasetError, match="the split has no test part"):
        fold_splits(settings(split=one), small_dataset)


def test_folds_share_the_budget_and_keep_a_run_without_folds(small_dataset: RetrievalDataset) -> None:
    assert settings().of_a_fold().training.budget_minutes == pytest.approx(10 / 3)
    assert settings(training=TrainingConfig(budget_minutes=None)).of_a_fold().training.budget_minutes is None
    assert [stage.name for stage in stages_of(settings())] == ["mine", "train", "evaluate", "folds", "index"]
    single = stage_keys(settings(folds=0), small_dataset)
    folds = stage_keys(settings(training=TrainingConfig(budget_minutes=30.0)), small_dataset)
    assert {name for name in folds if single.get(name) != folds[name]} == {"folds", "index"}
    assert stage_keys(settings(folds=4), small_dataset)["folds"] != stage_keys(settings(), small_dataset)["folds"]


_KILLED = """
import os, signal, sys
import llama_index_ace_finetune as ace
from llama_index_ace_finetune.pipeline.events import PipelineEvents

class Events(PipelineEvents):
    def on_message(self, text):
        if text.startswith("fold 3 of 3"):
            os.kill(os.getpid(), signal.SIGKILL)

training = ace.TrainingConfig(mode="linear", device="cpu", epochs=1)
ace.run(data=sys.argv[1], out=sys.argv[2], folds=3, synthesize=12, training=training, events=Events())
"""


class Recorded(PipelineEvents):
    """Keeps the messages, and what each training is given."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.messages: list[str] = []
        self.given: list[TrainingData] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def steps_progress(self, label: str) -> AbstractContextManager[StepsProgress]:
        self.given += [TrainingData.load(file) for file in self.work.glob("folds/*.new/training_data.json")]
        return super().steps_progress(label)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_run_resumes_with_the_folds_that_are_not_done(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(suite), str(out)], env=environment, timeout=1200, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert "folds" not in ace.report(out).report  # the first fold is a whole run already
    training = ace.TrainingConfig(mode="linear", device="cpu", epochs=1)
    options: dict[str, Any] = {"data": suite, "out": out, "synthesize": 12, "training": training}
    with pytest.raises(AceFinetuneError, match="--resume"):
        ace.run(**options, folds=3)
    events = Recorded(tmp_path / ".run.work")
    done = ace.run(**options, folds=3, resume=True, events=events)
    assert done.stages == ("folds", "index")
    assert "fold 2 of 3: kept, since it was done" in events.messages
    assert [path.name for path in tmp_path.glob(".*")] == []

    dataset = ace.read_dataset(suite)
    folds = [Split.load(folder / "split.json") for folder in (out, out / "folds" / "2", out / "folds" / "3")]
    assert Counter(query for split in folds for query in split.test) == Counter(list(dataset.queries))
    [data] = events.given  # of the third fold
    held = {dataset.queries[query].text for query in folds[2].test}
    positives = {dataset.memories[one].text for query in folds[2].test for one in dataset.relevant(query)}
    synthetic = [one for one in data.examples if one.query_id not in dataset.queries]
    assert synthetic
    for example in data.examples:
        assert example.query not in held
        assert positives.isdisjoint(data.memories[one] for one in example.positive_ids)

    report = done.report["folds"]
    assert report["queries"] == len(dataset.queries) == sum(fold["queries"] for fold in report["folds"])
    assert "in 3 folds" in done.verdict.lower()
    assert done.report["serving"] == done.folder.read_manifest()["serving"]
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    assert "3 folds" in card
    assert ace.run(**options, folds=3).stages == ()
    again = ace.run(**{**options, "training": dataclasses.replace(training, budget_minutes=10 / 3)}, resume=True)
    assert again.stages == ("index",)
    assert "folds" not in again.report
    assert json.loads(json.dumps(again.report["verdict"])) == report["first"]["verdict"]
    assert not (out / "folds").exists()
