from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.slices import (
    Slice,
    lexical_overlap,
    measure_slices,
    slice_by_label,
    slice_by_terciles,
    slice_queries,
)
from llama_index_ace_finetune.evaluation.stats.paired import paired_difference
from llama_index_ace_finetune.evaluation.systems import EvaluationSet

MakeSet = Callable[[int], EvaluationSet]


def sizes(slices: tuple[Slice, ...]) -> dict[str, int]:
    return {part.name: len(part.rows) for part in slices}


def test_small_labels_are_merged_into_other() -> None:
    labels = ["b"] * 12 + ["c"] * 6 + ["a"] * 10 + ["d"] * 5 + [None] * 3
    slices = slice_by_label("category", labels)
    assert sizes(slices) == {"a": 10, "b": 12, "other": 11}
    assert slices[2].rows.tolist() == [*range(12, 18), *range(28, 33)]
    assert [part.small for part in slices] == [False] * 3
    assert {part.dimension for part in slices} == {"category"}


def test_small_other_slice_is_marked() -> None:
    slices = slice_by_label("category", ["a"] * 10 + ["b"] * 9)
    assert sizes(slices) == {"a": 10, "other": 9}
    assert [part.small for part in slices] == [False, True]


def test_label_named_other_is_merged_into_other() -> None:
    assert sizes(slice_by_label("category", ["other"] * 20 + ["b"] * 3)) == {"other": 23}


def test_labels_keep_the_given_order() -> None:
    labels = ["hard"] * 10 + ["easy"] * 10 + ["brutal"] * 10
    assert list(sizes(slice_by_label("difficulty", labels, order=("easy", "hard")))) == ["easy", "hard", "brutal"]


def test_terciles_by_hand() -> None:
    values = np.arange(30) + 1
    slices = slice_by_terciles("length", values[::-1], unit=" words")
    names = ["low (1 to 10 words)", "medium (11 to 20 words)", "high (21 to 30 words)"]
    assert sizes(slices) == dict.fromkeys(names, 10)
    assert [part.name for part in slices] == names
    assert slices[0].rows.tolist() == list(range(20, 30))


def test_equal_values_are_in_one_tercile() -> None:
    assert list(sizes(slice_by_terciles("overlap", [0.0] * 40)).values()) == [40]
    assert list(sizes(slice_by_terciles("overlap", [0.0] * 25 + [1.0] * 15)).values()) == [25, 15]
    assert slice_by_terciles("overlap", []) == ()


def test_nan_or_infinite_value_is_refused() -> None:
    with pytest.raises(AceFinetuneError, match="The overlap of a query is NaN"):
        slice_by_terciles("overlap", [0.0, np.nan])


@given(st.lists(st.sampled_from(["a", "b", "c", "other", None]), max_size=80))
def test_every_labelled_query_is_in_one_slice(labels: list[str | None]) -> None:
    slices = slice_by_label("category", labels)
    rows = sorted(row for part in slices for row in part.rows.tolist())
    assert rows == [row for row, label in enumerate(labels) if label is not None]
    assert all(part.small == (len(part.rows) < 10) for part in slices)
    assert all(part.name == "other" for part in slices if part.small)


@given(st.lists(st.integers(0, 20), max_size=80))
def test_terciles_do_not_overlap(values: list[int]) -> None:
    slices = slice_by_terciles("length", values)
    assert sorted(row for part in slices for row in part.rows.tolist()) == list(range(len(values)))
    ranges = [(min(values[r] for r in p.rows), max(values[r] for r in p.rows)) for p in slices if p.name != "other"]
    assert all(one[1] < other[0] for one, other in pairwise(ranges))


def test_lexical_overlap_by_hand() -> None:
    data = EvaluationSet(
        query_ids=("a", "b", "c", "d"),
        queries=("restart the server", "restarting databases", "wait", "the"),
        corpus_ids=("x", "y"),
        corpus=("Restart a server after updates.", "Databases are restarted at night."),
        relevant=(np.array([0]), np.array([0, 1]), np.array([1]), np.array([1])),
    )
    assert lexical_overlap(data).tolist() == [1.0, 1.0, 0.0, 0.0]
    one = dataclasses.replace(data, relevant=(np.array([1]), np.array([0]), np.array([], np.int64), np.array([1])))
    assert lexical_overlap(one).tolist() == [0.5, 0.5, 0.0, 0.0]


def test_queries_are_sliced_by_all_dimensions(dev_set: MakeSet) -> None:
    data = dataclasses.replace(dev_set(60), queries=tuple("word " * (1 + n // 10) for n in range(60)))
    metadata = {f"q{n}": {"query_category": "ab"[n % 2], "difficulty": ("hard", "easy")[n < 30]} for n in range(60)}
    slices = slice_queries(data, metadata=metadata, seen_answers={f"m{row:02d}" for row in range(10)})
    held = {(part.dimension, part.name): len(part.rows) for part in slices}
    assert held["category", "a"] == held["category", "b"] == 30
    assert [part.name for part in slices if part.dimension == "difficulty"] == ["easy", "hard"]
    assert [len(part.rows) for part in slices if part.dimension == "query length"] == [20, 20, 20]
    assert next(part.name for part in slices if part.dimension == "query length") == "low (1 to 2 words)"
    assert held["answer", "seen"] == 20
    assert held["answer", "unseen"] == 40
    assert {part.dimension for part in slice_queries(data)} == {"query length", "lexical overlap"}


def test_slice_measures_equal_those_of_its_rows() -> None:
    generator = np.random.default_rng(0)
    values = {"MRR@10": generator.random(40), "difference": generator.normal(size=40)}
    groups = np.arange(40) // 2
    part = Slice("category", "a", np.arange(10, 30))
    (measured,) = measure_slices([part], values, groups=groups, resamples=500, seed=3)
    assert (measured.slice, measured.queries, measured.groups) == (part, 20, 10)
    for name, value in values.items():
        direct = paired_difference(value[10:30], np.zeros(20), groups=groups[10:30], resamples=500, seed=3)
        found = measured.means[name]
        assert (found.mean, found.low, found.high) == pytest.approx((direct.mean, direct.low, direct.high))


@pytest.mark.parametrize(
    ("rows", "values", "sentence"),
    [
        ([0, 5], {"a": [0.0] * 5}, "category = x is empty or has rows beyond the 5 queries"),
        ([], {"a": [0.0] * 5}, "is empty"),
        ([0], {"a": [0.0], "b": [0.0] * 2}, r"of \[1, 2\] queries"),
        ([0], {}, r"of \[\] queries"),
        ([0], {"a": [np.nan]}, "NaN or infinite"),
    ],
)
def test_invalid_slices_are_refused(rows: list[int], values: dict[str, list[float]], sentence: str) -> None:
    with pytest.raises(AceFinetuneError, match=sentence):
        measure_slices(
            [Slice("category", "x", np.array(rows, np.int64))], {name: np.array(v) for name, v in values.items()}
        )
