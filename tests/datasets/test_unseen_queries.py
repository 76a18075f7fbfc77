"""Which queries of a dataset a model may be tested on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.datasets.splits.unseen_queries import unseen_queries
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError, LeakageError

DATASET = RetrievalDataset(
    name="small",
    memories={f"m{n}": Memory(f"m{n}", f"memory {n}") for n in range(4)},
    queries={f"q{n}": Query(f"q{n}", f"query {n}") for n in range(4)},
    judgements={f"q{n}": {f"m{n}": 1.0} for n in range(4)},
)


def record(*, train: tuple[int, ...], dev: tuple[int, ...], test: tuple[int, ...]) -> dict[str, Any]:
    """A record of seen queries and of the split, as a model folder has it."""
    seen = {
        part: {
            "query_hashes": [text_hash(f"query {n}") for n in numbers],
            "answer_hashes": [text_hash(f"memory {n}") for n in numbers],
        }
        for part, numbers in (("train", train), ("dev", dev))
    }
    return {"seen": seen, "split": {"queries": {"test": {f"q{n}": text_hash(f"query {n}") for n in test}}}}


def test_seen_queries_are_left_out_and_dev_is_for_selection() -> None:
    found = unseen_queries(DATASET, record(train=(0,), dev=(1,), test=(2, 3)))
    assert (found.test, found.dev, found.warnings) == (("q2", "q3"), ("q1",), ())


def test_a_query_of_another_split_part_is_not_tested_on() -> None:
    assert unseen_queries(DATASET, record(train=(0,), dev=(1,), test=(3,))).test == ("q3",)


def test_unseen_queries_of_other_data_are_tested() -> None:
    """Queries 7 and 8, the test queries of the split, are not in the data."""
    found = unseen_queries(DATASET, record(train=(0,), dev=(1,), test=(7, 8)))
    assert (found.test, found.dev) == (("q2", "q3"), ("q1",))
    assert "None of these queries is a test query of the model's split" in found.warnings[0]
    assert unseen_queries(DATASET, record(train=(0,), dev=(1,), test=())).warnings == ()


@pytest.mark.parametrize("part", ["train", "dev"])
def test_a_held_out_query_that_was_seen_is_refused(part: str) -> None:
    numbers = {"train": (0,), "dev": (1,), part: (2,)}
    with pytest.raises(LeakageError, match="query 'q2' is held out for testing, but the model has seen it"):
        unseen_queries(DATASET, record(**numbers, test=(2, 3)))


def test_a_held_out_query_whose_answer_was_trained_on_is_refused() -> None:
    seen = record(train=(0,), dev=(1,), test=(3,))
    seen["seen"]["train"]["answer_hashes"].append(text_hash("memory 3"))
    with pytest.raises(LeakageError, match="'q3'"):
        unseen_queries(DATASET, seen)


def test_refit_on_all_queries_cannot_be_measured_on_them() -> None:
    refitted = {**record(train=(0, 1, 2, 3), dev=(1,), test=(2, 3)), "metrics": {"refit": {"ships": True, "on": "all"}}}
    with pytest.raises(LeakageError, match="trained on every query of its data, the test query 'q2' included"):
        unseen_queries(DATASET, refitted)


def test_refit_on_dev_leaves_no_dev_queries() -> None:
    refitted = {**record(train=(0, 1), dev=(1,), test=(2, 3)), "metrics": {"refit": {"ships": True}}}
    found = unseen_queries(DATASET, refitted)
    assert (found.test, found.dev) == (("q2", "q3"), ())


@pytest.mark.parametrize(
    ("metrics", "on"),
    [
        (None, None),
        ({}, None),
        ({"refit": None}, None),
        ({"refit": {"ships": False, "on": "all"}}, None),
        ({"refit": {"ships": True}}, "dev"),
        ({"refit": {"ships": True, "on": "all"}}, "all"),
    ],
)
def test_record_says_what_a_refit_was_trained_on(metrics: Any, on: str | None) -> None:
    found = shipped_refit({"metrics": metrics})
    assert (found["on"] if found else None) == on


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(DatasetError, match="none is left"):
        unseen_queries(DATASET, record(train=(0, 1, 2, 3), dev=(), test=()))


def test_a_model_without_a_record_is_tested_on_all_with_a_warning() -> None:
    found = unseen_queries(DATASET, None)
    assert found.test == ("q0", "q1", "q2", "q3")
    assert "not known" in found.warnings[0]


def test_queries_that_are_held_out_about_trained_memories_are_returned_apart() -> None:
    data = replace(DATASET, judgements={**DATASET.judgements, "q1": {"m0": 1.0}, "q2": {"m0": 1.0}})
    seen = record(train=(0,), dev=(), test=(3,))
    seen["split"]["queries"] |= {"dev_known": {"q1": text_hash("query 1")}, "test_known": {"q2": text_hash("query 2")}}
    found = unseen_queries(data, seen)
    assert (found.test, found.dev, found.test_known, found.dev_known) == (("q3",), (), ("q2",), ("q1",))
    seen["seen"]["train"]["query_hashes"].append(text_hash("query 2"))
    with pytest.raises(LeakageError, match="'q2' is held out, but the model has seen it"):
        unseen_queries(data, seen)
