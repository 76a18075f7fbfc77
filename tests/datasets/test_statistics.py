"""Statistics against numbers counted by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import dataset_files as files
import pytest

from llama_index_ace_finetune.datasets.oracle import upper_bound
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.statistics import inspect_dataset


def test_statistics_of_a_small_set() -> None:
    dataset = files.make_dataset(
        {"q1": "locked database", "q2": "Locked  database", "q3": "why does it hang", "q4": "nobody knows"},
        {"m1": "the database is locked", "m2": "threads hang", "m3": "THREADS hang", "m4": "unused words here"},
        {"q1": {"m1": 1.0, "m4": 0.0}, "q2": {"m2": 1.0}, "q3": {"m2": 1.0, "m3": 2.0}},
    )
    found = inspect_dataset(dataset)
    assert (found.memories, found.answers, found.queries, found.query_texts) == (4, 3, 4, 3)
    assert (found.right, found.wrong, found.queries_without_answer) == (4, 1, 1)
    # q1 and q2 share {m1, m2}; q3 has only m2, as m3 is the same text.
    assert (found.answers_per_query_mean, found.answers_per_query_max) == (pytest.approx(5 / 3), 2)
    assert (found.query_words.mean, found.query_words.median) == (2.5, 2.0)
    assert found.memory_words.mean == pytest.approx((4 + 2 + 2 + 3) / 4)
    assert (found.ambiguous_query_texts, found.ambiguous_queries) == (1, 2)
    # q1 and q2 get one ranking: one is answered first, the other second; q3 is always answered.
    assert found.ceiling.recall_at_1 == pytest.approx(2 / 3)
    assert found.ceiling.recall_at_5 == 1.0
    assert found.ceiling.mrr == pytest.approx((1 + 0.5 + 1) / 3)
    # Both words of "locked database" are in m1; of "why does it hang" one word in four in m2.
    assert found.word_overlap == pytest.approx((1 + 1 + 0.25) / 3)
    assert found.bm25.queries == 3
    assert found.bm25.recall_at_10 == 1.0
    assert found.bm25.recall_at_1 == 1.0
    assert len(found.samples) == 3
    assert {s.query_id for s in found.samples} == {"q1", "q2", "q3"}
    assert any("1 query texts with different relevant memories (2 rows)" in line for line in found.lines())
    assert json.loads(json.dumps(asdict(found)))["answers"] == 3


def test_near_duplicates_are_counted() -> None:
    memories = {
        "m1": "restart the nightly indexing job after a crash",
        "m2": "restart the nightly indexing job after the crash",
    }
    dataset = files.make_dataset({"q": "a b"}, {**memories, "m3": "something else"}, {"q": {"m1": 1.0}})
    found = inspect_dataset(dataset)
    assert (found.near_duplicate_memories, found.near_duplicate_queries) == (2, 0)


def test_upper_bound_by_hand() -> None:
    # One text for five rows: three want a, one wants b, one wants c: ranks 1, 1, 1, 2, 3.
    queries = {f"q{n}": "what to check" for n in range(5)}
    rights = ["a", "a", "a", "b", "c"]
    dataset = files.make_dataset(
        queries, {x: f"text {x}" for x in "abc"}, {f"q{n}": {r: 1.0} for n, r in enumerate(rights)}
    )
    ceiling = upper_bound(dataset)
    assert ceiling.recall_at_1 == pytest.approx(3 / 5)
    assert ceiling.recall_at_5 == 1.0
    assert ceiling.mrr == pytest.approx((3 + 1 / 2 + 1 / 3) / 5)


def test_dataset_without_queries() -> None:
    found = inspect_dataset(files.make_dataset({}, {"m": "x y"}, {}))
    assert (found.queries, found.bm25.queries, found.samples) == (0, 0, ())
    assert found.ceiling.recall_at_1 == 0.0
    assert found.lines()[0] == "made (read as )"


def test_upper_bound_of_ace_equals_the_measured_one(shared_data: Path) -> None:
    found = inspect_dataset(read_dataset(shared_data / "ace"))
    assert found.ambiguous_query_texts == 63
    assert found.ambiguous_queries == 219
    assert found.query_texts == 882
    assert found.answers == 2010
    assert found.ceiling.recall_at_1 == pytest.approx(0.850, abs=5e-4)
    assert found.ceiling.recall_at_5 == pytest.approx(0.952, abs=5e-4)
    assert found.ceiling.mrr == pytest.approx(0.897, abs=5e-4)
    assert found.ledger.counts["mojibake_repaired_memory"] == 8
    assert 0.3 < found.bm25.recall_at_1 < found.bm25.recall_at_10 < 0.9
