"""Every kind of overlap is counted, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import dataset_files as files
import pytest

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.audit import Audit, audit_model, audit_split, require_clean
from llama_index_ace_finetune.datasets.splits.split import Split, SplitSettings, split_dataset
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.errors import LeakageError


@dataclass(frozen=True)
class Row:
    query_id: str
    positive_ids: tuple[str, ...] = ()
    negative_ids: tuple[str, ...] = ()


_TEXTS = {
    "t1": "restart the nightly indexing job after a crash",
    "t2": "open the valve",
    "d1": "paint the fence",
    "e1": "read the meter",
    "e2": "count the sheep",
}


def _dataset(texts: Mapping[str, str] = _TEXTS, answers: Mapping[str, str] | None = None) -> RetrievalDataset:
    memories = {f"m-{i}": f"answer {i}" for i in texts} | {"m-x": "answer nobody wants", "m-y": "ANSWER  e1"}
    memories.update(answers or {})
    return files.make_dataset(texts, memories, {i: {f"m-{i}": 1.0} for i in texts})


def _split(dataset: RetrievalDataset, options: SplitSettings | None = None) -> Split:
    parts = {"train": ["t1", "t2"], "dev": ["d1"], "test": ["e1", "e2"]}
    return Split.of(dataset, parts, options or SplitSettings())


def _found(audit: Audit) -> dict[str, int]:
    return {overlap.name: overlap.count for overlap in audit.overlaps if overlap.count}


def test_a_clean_split_passes() -> None:
    dataset = _dataset()
    audit = audit_split(dataset, _split(dataset), [Row("t1", ("m-t1",), ("m-x", "m-t2"))])
    assert _found(audit) == {}
    assert audit.passed
    assert audit.lines()[-1] == "audit of made: passed"
    require_clean(audit)


def test_equal_query_texts() -> None:
    dataset = _dataset({**_TEXTS, "e1": "Open  the valve"})
    audit = audit_split(dataset, _split(dataset))
    # Queries with an equal text share their answers, so both answers are relevant in both parts.
    assert _found(audit) == {"query_equal": 1, "shared_answer": 2}
    assert not audit.passed
    assert audit.count("query_equal") == 1


def test_near_duplicate_query_texts() -> None:
    dataset = _dataset({**_TEXTS, "d1": "restart the nightly indexing job after the crash"})
    audit = audit_split(dataset, _split(dataset))
    assert _found(audit) == {"query_near": 1}
    assert audit_split(dataset, _split(dataset, SplitSettings(near_duplicate=1.0))).passed


def test_near_duplicate_answers_are_counted_but_allowed() -> None:
    near = {
        "m-t1": "Rotate the signing keys every ninety days.",
        "m-e1": "rotate the signing keys every ninety days ago",
    }
    dataset = _dataset(answers=near)
    audit = audit_split(dataset, _split(dataset))
    assert _found(audit) == {"answer_near": 1}
    assert audit.passed
    within = _dataset(answers={"m-e2": near["m-t1"], "m-e1": near["m-e1"]})
    assert _found(audit_split(within, _split(within))) == {}


def test_shared_answers_by_id_and_by_text() -> None:
    dataset = _dataset()
    by_id = replace(dataset, judgements={**dataset.judgements, "e2": {"m-t1": 1.0}})
    assert _found(audit_split(by_id, _split(by_id))) == {"shared_answer": 1}
    by_text = _dataset(answers={"m-e1": "Answer T2"})
    assert _found(audit_split(by_text, _split(by_text))) == {"shared_answer": 1}


def test_queries_that_are_answers_or_memories() -> None:
    dataset = _dataset(answers={"m-t1": "Count the  sheep"})
    audit = audit_split(dataset, _split(dataset))
    assert _found(audit) == {"query_is_answer": 1, "query_is_memory": 1}
    assert not audit.passed
    own = _dataset(answers={"m-e2": "count the sheep"})
    audit = audit_split(own, _split(own))
    assert _found(audit) == {"query_is_memory": 1}
    assert audit.passed


def test_ids_in_two_parts() -> None:
    dataset = _dataset()
    split = Split.of(dataset, {"train": ["t1", "e1"], "test": ["e1"]}, SplitSettings())
    assert _found(audit_split(dataset, split)) == {"query_id": 1, "query_equal": 1, "shared_answer": 1}


def test_groups() -> None:
    about = {"t1": {"talk": 1}, "t2": {"talk": 2}, "d1": {"talk": 3}, "e1": {"talk": 1}, "e2": {}}
    plain = _dataset()
    memories = {**plain.memories, "m-e2": Memory("m-e2", "answer e2", {"talk": 3})}
    queries = {i: Query(i, text, about[i]) for i, text in _TEXTS.items()}
    dataset = replace(plain, memories=memories, queries=queries)
    # Talk 1 by the queries' own field, talk 3 through the positive of e2.
    audit = audit_split(dataset, _split(dataset, SplitSettings(group_field="talk")))
    assert _found(audit) == {"group": 2}
    assert audit_split(dataset, _split(dataset)).passed


def test_changed_texts_are_counted() -> None:
    split = _split(_dataset())
    changed = _dataset({**_TEXTS, "e1": "read the other meter"}, {"m-t1": "a new answer"})
    assert _found(audit_split(changed, split)) == {"changed": 2}
    fewer = replace(_dataset(), queries={}, judgements={})
    assert _found(audit_split(fewer, split)) == {"changed": 5}
    same = _dataset({**_TEXTS, "e1": "Read the  METER"})
    assert audit_split(same, split).passed


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (Row("e1", ("m-x",)), {"training_query_foreign": 1, "training_query_held_out": 1}),
        (Row("d1"), {"training_query_foreign": 1, "training_query_held_out": 1}),
        (Row("elsewhere"), {"training_query_foreign": 1}),
        (Row("t1", ("m-t1", "m-e1")), {"training_positive": 1}),
        (Row("t1", ("m-d1",)), {"training_positive": 1}),
        (Row("t1", ("m-t1",), ("m-y",)), {"training_negative": 1}),
        (Row("t1", ("m-t1",), ("m-e1", "m-e2", "m-d1")), {"training_negative": 3}),
        (Row("t1", ("m-t1",), ("m-t1",)), {"negative_is_right": 1}),
        (Row("t1", ("gone",), ("gone too",)), {}),
    ],
)
def test_training_examples(row: Row, found: dict[str, int]) -> None:
    dataset = _dataset()
    audit = audit_split(dataset, _split(dataset), [Row("t2", ("m-t2",)), row])
    assert _found(audit) == found
    assert audit.passed == (not found)


def test_training_negative_with_the_text_of_a_held_out_answer() -> None:
    dataset = _dataset(answers={"m-y": "ANSWER  of e1", "m-e1": "answer of e1"})
    audit = audit_split(dataset, _split(dataset), [Row("t1", ("m-t1",), ("m-y",))])
    assert _found(audit) == {"training_negative": 1}
    allowed = audit_split(dataset, _split(dataset), [Row("t1", (), ("m-y",))], forbid_held_out_negatives=False)
    assert allowed.count("training_negative") == 1
    assert allowed.passed


def test_held_out_queries_that_a_model_was_trained_on() -> None:
    split = _split(_dataset())
    record = {"seen": {"train": {"query_hashes": [split.query_hashes[i] for i in ("t1", "d1", "e2")]}}}
    leaked = Audit("made", audit_model(split, record))
    assert _found(leaked) == {"model_dev": 1, "model_test": 1}
    assert not leaked.passed
    assert [one.examples for one in leaked.overlaps] == [("d1",), ("e2",)]
    assert not Audit("made", audit_model(split, record, allowed=("dev",))).passed
    meant = Audit("made", audit_model(split, record, allowed=("dev", "test")))
    assert meant.passed
    assert meant.lines()[0].startswith("dev queries that the model was trained on (by a refit)         1")


def test_require_clean_names_the_leaks() -> None:
    dataset = _dataset({**_TEXTS, "e1": "open the valve"})
    audit = audit_split(dataset, _split(dataset))
    with pytest.raises(
        LeakageError, match=r"^made: the split leaks \(1 equal query texts in two parts; 2 answers relevant to"
    ):
        require_clean(audit)
    assert sum("FORBIDDEN" in line for line in audit.lines()) == 2
    assert audit.lines()[-1] == "audit of made: FAILED"
    assert any("open the valve" in line for line in audit.lines())


def test_random_split_by_rows_leaks_and_ours_does_not(shared_data: Path) -> None:
    dataset = read_dataset(shared_data / "ace")
    ids = sorted(dataset.queries)
    rows = Split.of(dataset, {"train": ids[::2], "test": ids[1::2]}, SplitSettings())
    audit = audit_split(dataset, rows)
    assert audit.count("query_equal") > 30
    assert audit.count("shared_answer") == 75
    assert not audit.passed


@pytest.mark.parametrize("name", ["ace", "cranfield", "locomo", "msvc_errors"])
def test_splits_of_the_shared_sets_are_clean(shared_data: Path, name: str) -> None:
    dataset = read_dataset(shared_data / name)
    split = split_dataset(dataset)
    assert audit_split(dataset, split).passed
    assert min(len(split.train), len(split.dev), len(split.test)) > 0
