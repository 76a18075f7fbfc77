from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_training import QUICK

from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError, TrainingError
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.data.batches import BatchCollator
from llama_index_ace_finetune.training.data.examples import IndexedExamples, index_examples
from llama_index_ace_finetune.training.data.remined_negatives import (
    ReminedNegatives,
    first_documents,
    mining_settings_of,
)
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.loop.fit import Fitted
from llama_index_ace_finetune.training.modes.full import estimate_full, train_full
from llama_index_ace_finetune.training.modes.mode import Speed, TrainingSizes

DENSE = MiningSettings(bm25=False, sampling_strategy="top")


def at(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def rows(*values: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(value, np.int64) for value in values)


class Angles:
    """An encoder of fixed vectors: fourteen documents at 0, 10, ... 130 degrees, and the queries where they are put."""

    def __init__(self, *queries: float) -> None:
        self.queries = queries
        self.model = torch.nn.Identity()
        self.encodings = 0

    def encode_queries(self, texts: Any) -> np.ndarray:
        assert not self.model.training
        self.encodings += 1
        return at(*self.queries)

    def encode_documents(self, texts: Any) -> np.ndarray:
        return at(*range(0, 140, 10))

    def weights_changed(self) -> None:
        pass


def examples(**options: Any) -> IndexedExamples:
    """The first query is about the document at 0 degrees, the second about that at 130."""
    values: dict[str, Any] = {
        "query_ids": ("a", "b"),
        "queries": ("first", "second"),
        "corpus_ids": tuple(f"d{row}" for row in range(14)),
        "corpus": tuple(f"text {row}" for row in range(14)),
        "relevant": rows([0], [13]),
        "negatives": rows([5, 6], [1, 2]),
    }
    return IndexedExamples(**values | options)


def remined(encoder: Angles, data: IndexedExamples, *, settings: MiningSettings = DENSE) -> ReminedNegatives:
    base = at(0, 0)
    return ReminedNegatives(
        encoder,  # type: ignore[arg-type]
        data,
        first=first_documents(base, encoder.encode_documents(()), data),
        settings=settings,
        count=3,
    )


# ------------------------------------------------------------------------------------------------ mining


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Within 18 degrees of its positive are a near-duplicate (cosine above .95) and what exceeds the margin.
        ({}, [11, 10, 9]),
        ({"judged": rows([], [2])}, [2, 11, 10]),
        ({"held_out": np.arange(14) == 11}, [10, 9, 8]),
        ({"relevant": rows([0], [10, 13])}, [8, 7, 6]),
        ({"own": np.array([-1, 9])}, [11, 10, 8]),
    ],
)
def test_query_whose_first_ten_changed_gets_negatives_by_the_filters_of_mining(
    options: dict[str, Any], expected: list[int]
) -> None:
    data = examples(**options)
    encoder = Angles(5, 130)  # the first query has moved, its first ten have not
    negatives = remined(encoder, data)
    negatives.begin([4], folder=None)
    encoder.model.train()
    for step in range(1, 7):
        negatives.after_step(step)
    assert encoder.encodings == 1
    assert encoder.model.training
    # The trainer has fetched batch 5 when step 4 ends.
    assert [negatives.of_batch(5)[query].tolist() for query in (0, 1)] == [[5, 6], [1, 2]]
    assert [negatives.of_batch(6)[query].tolist() for query in (0, 1)] == [[5, 6], expected]
    (record,) = negatives.record
    assert (record.step, record.changed_queries, record.new_negatives) == (4, 1, 1)


def test_query_without_accepted_candidates_keeps_its_negatives() -> None:
    encoder = Angles(130, 130)
    negatives = remined(encoder, examples(), settings=dataclasses.replace(DENSE, max_score=-0.99))
    negatives.begin([1], folder=None)
    negatives.after_step(1)
    assert [of_query.tolist() for of_query in negatives.of_batch(9)] == [[5, 6], [1, 2]]
    assert (negatives.record[0].changed_queries, negatives.record[0].new_negatives) == (2, 0)


def test_first_ten_are_compared_with_those_of_the_last_mining() -> None:
    encoder = Angles(0, 130)
    negatives = remined(encoder, examples())
    negatives.begin([1, 2], folder=None)
    negatives.after_step(1)
    negatives.after_step(2)
    assert [record.changed_queries for record in negatives.record] == [1, 0]


def test_candidates_of_bm25_are_mined_where_they_were(caplog: pytest.LogCaptureFixture) -> None:
    data = examples(corpus=tuple("second" if row == 3 else f"text {row}" for row in range(14)))
    found = []
    for bm25 in (False, True):
        encoder = Angles(0, 130)
        # Of two candidates by cosine, one is the positive itself, the other its near-duplicate.
        negatives = remined(encoder, data, settings=dataclasses.replace(DENSE, range_max=2, bm25=bm25))
        negatives.begin([1], folder=None)
        with caplog.at_level(logging.INFO, logger="llama_index_ace_finetune"):
            negatives.after_step(1)
        found.append(negatives.of_batch(3)[1].tolist())
    assert found == [[1, 2], [3]]
    assert "the first ten of 1 of 2 queries had changed, 1 have new negatives" in caplog.text


# ------------------------------------------------------------------------------------------------ resuming


def test_mined_negatives_are_read_again(tmp_path: Path) -> None:
    whole = remined(Angles(5, 130), examples())
    whole.begin([4, 8], folder=tmp_path)
    whole.after_step(4)
    resumed = remined(Angles(5, 130), examples())
    resumed.begin([4, 8], folder=tmp_path, resumed_at=5)
    assert resumed.record == whole.record
    assert [r.tolist() for r in resumed.of_batch(6)] == [r.tolist() for r in whole.of_batch(6)] == [[5, 6], [11, 10, 9]]
    resumed.after_step(8)
    assert resumed.record[-1].changed_queries == 0  # since the first mining
    # A checkpoint from before the mining does not have its negatives.
    earlier = remined(Angles(5, 130), examples())
    earlier.begin([4, 8], folder=tmp_path, resumed_at=3)
    assert earlier.record == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: {**state, "negatives": state["negatives"][:1]}, "are of other training data"),
        (lambda state: {**state, "negatives": [[5], [14]]}, "are of other training data"),
        (lambda state: {**state, "first": [[1]]}, "are of other training data"),
        (lambda state: {**state, "negatives": "all"}, "is corrupt"),
        (lambda state: [], "is corrupt"),
        (None, "not found|does not exist|is missing"),
    ],
)
def test_mined_negatives_of_other_data_are_refused(tmp_path: Path, change: Any, expected: str) -> None:
    whole = remined(Angles(5, 130), examples())
    whole.begin([4], folder=tmp_path)
    whole.after_step(4)
    file = tmp_path / "negatives-4.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    if change:
        file.write_text(json.dumps(change(state)), encoding="utf-8")
    with pytest.raises(TrainingError, match=expected):
        remined(Angles(5, 130), examples()).begin([4], folder=tmp_path, resumed_at=4)


# ------------------------------------------------------------------------------------------------ settings and plan


def test_mining_settings_are_those_of_the_training_data() -> None:
    settings = MiningSettings(relative_margin=0.1, relaxation=(0.0, None), bm25=False)
    metadata = {"mining": {"settings": json.loads(json.dumps(settings.to_dict()))}}
    assert mining_settings_of(metadata) == settings
    assert mining_settings_of({}) == MiningSettings()
    for wrong in ({"range_max": "many"}, {"colour": 1}, {"relative_margin": 2}):
        with pytest.raises(TrainingError, match="mining settings that are not valid"):
            mining_settings_of({"mining": {"settings": wrong}})
    with pytest.raises(TrainingError, match="filtered by the scores of the teacher"):
        mining_settings_of({"mining": {"settings": {"teacher": "a-model"}}})


@pytest.mark.parametrize("options", [{"remine": -1}, {"remine": 1, "hard_negatives": 0}, {"remine": 1, "teacher": "m"}])
def test_contradicting_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(AceFinetuneError, match="remine is "):
        TrainingConfig(**options)


def test_estimate_counts_the_encoding_of_each_remining() -> None:
    sizes = TrainingSizes(train=1000, dev=200, corpus=4000, train_queries=64, memories=40)
    speed = Speed(embed=0.001, train=0.001, linear_step=1.0)
    plans = {
        (times, seconds): estimate_full(
            TrainingConfig(mode="full", remine=times, batch_size=8), sizes, speed, seconds=seconds, after=()
        )
        for times in (0, 2)
        for seconds in (None, 20.0)
    }
    assert plans[2, None].seconds == pytest.approx(plans[0, None].seconds + 2 * 5.0)
    assert plans[2, None].description.endswith("; negatives mined again: 2 times")
    assert plans[2, 20.0].description.endswith("; negatives mined again: not, for lack of time")
    assert "mined again" not in plans[0, None].description


# ------------------------------------------------------------------------------------------------ in a training


@pytest.mark.slow
def test_training_mines_again_and_records_it(
    training_data: TrainingData, one_layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[int, list[list[int]]]] = []
    select = BatchCollator.select

    def recorded(self: BatchCollator, numbers: list[int]) -> Any:
        if self.remined and self.batch:
            used.append((self.batch, [rows.tolist() for rows in self.remined.of_batch(self.batch)]))
        return select(self, numbers)

    monkeypatch.setattr(BatchCollator, "select", recorded)
    options = {**QUICK, "base_model": one_layer, "epochs": 2, "learning_rate": 1e-2, "remine": 1, "cluster_size": 1}
    tuner = EmbeddingFineTuner(TrainingConfig(output_dir=str(tmp_path / "model"), **options))
    tuner.load_training_data(training_data)
    tuner.initialize_model()
    phases: list[str] = []
    metrics = tuner.train(on_phase=phases.append)
    (record,) = metrics["rungs"][0]["remined"]
    assert record["step"] == 5
    assert 0 < record["changed_queries"] <= 40
    assert "full: mining" in phases
    steps = used[-10:]  # after those that time a step
    assert [batch for batch, _ in steps] == list(range(1, 11))
    assert steps[0][1] == steps[5][1]
    assert (steps[6][1] != steps[0][1]) == (record["new_negatives"] > 0)
    # No positive of a dev query has become a negative.
    dev = index_examples(training_data, training_data.examples_of("dev"))
    held = {int(row) for of_query in dev.relevant for row in of_query}
    assert held.isdisjoint(row for of_query in steps[-1][1] for row in of_query)


# ------------------------------------------------------------------------------------------------ judged negatives


def judged(data: TrainingData, count: int) -> TrainingData:
    """The data with the first negative of the first `count` examples labelled as irrelevant."""
    marked = [
        dataclasses.replace(
            example, negatives=(HardNegative(example.negative_ids[0], "judged"), *example.negatives[1:])
        )
        for example in data.examples[:count]
    ]
    return dataclasses.replace(data, examples=(*marked, *data.examples[count:]))


def test_judged_negatives_are_those_labelled_as_irrelevant(training_data: TrainingData) -> None:
    train = judged(training_data, 2).examples_of("train")
    found = index_examples(judged(training_data, 2), train)
    assert [len(of_query) for of_query in found.judged] == [1, 1] + [0] * 38
    assert found.judged[0].tolist() == found.negatives[0][:1].tolist()
    assert index_examples(training_data, training_data.examples_of("train")).judged == ()
    assert found.held_out is not None
    assert found.held_out.tolist() == [False] * 8 + [True] * 4  # the memories of dev


@pytest.mark.parametrize("labelled", [0, 8])
def test_in_batch_trains_with_judged_negatives_only(
    training_data: TrainingData, one_layer: str, monkeypatch: pytest.MonkeyPatch, labelled: int
) -> None:
    found: dict[str, BatchCollator] = {}

    def fake_fit(encoder: Encoder, *, collator: Any, config: TrainingConfig, **_: Any) -> Fitted:
        found[config.mode] = collator()
        return Fitted(0, 0.0, 0)

    monkeypatch.setattr("llama_index_ace_finetune.training.modes.full.fit", fake_fit)
    data = judged(training_data, labelled)
    train = index_examples(data, data.examples_of("train"))
    base = Encoder.load(one_layer, settings=EncoderSettings(device="cpu"))
    for mode in ("in_batch", "full"):
        config = TrainingConfig(**{**QUICK, "mode": mode, "cluster_size": 1})
        train_full(TrainingContext(base, train, None, config), minutes=None, name=mode)
    numbers = [0, 7, 8, 39]
    positives = {int(train.relevant[number][0]) for number in numbers}
    wrong = {int(train.negatives[number][0]) for number in numbers[:2]} if labelled else set()
    assert set(found["in_batch"].select(numbers)[0]) == positives | wrong
    assert set(found["full"].select(numbers)[0]) == positives | {int(train.negatives[n][0]) for n in numbers}


def test_estimate_of_in_batch_counts_judged_negatives() -> None:
    speed = Speed(embed=0.0, train=0.001, linear_step=1.0)
    config = TrainingConfig(mode="in_batch", batch_size=8, epochs=1)

    def seconds(labelled: int) -> float:
        sizes = TrainingSizes(train=1000, dev=200, corpus=4000, train_queries=64, memories=400, judged_queries=labelled)
        return estimate_full(config, sizes, speed, seconds=None, after=(), name="in_batch").seconds

    # Eight batches of eight queries with a positive of ten characters each, and a negative where one is labelled.
    assert seconds(0) == pytest.approx(1 + 0.64)
    assert seconds(16) == pytest.approx(1 + 0.64 * 1.25)
