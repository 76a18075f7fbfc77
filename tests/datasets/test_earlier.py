from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.datasets.splits.earlier import EarlierSplit, earlier_parts
from llama_index_ace_finetune.datasets.splits.split import SplitSettings, split_dataset
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError

NAMES = ["amber", "birch", "cedar", "daisy", "ebony", "fern", "ginger", "hazel", "iris", "jasmine", "kale", "lily"]


def dataset(positives: dict[str, list[str]], **metadata: dict[str, str]) -> RetrievalDataset:
    """Queries with these ids and texts, and the memories that are relevant to them."""
    memories = {m: Memory(m, f"all about {m}") for found in positives.values() for m in found}
    queries = {q: Query(q, f"asking {q}", metadata.get(q, {})) for q in positives}
    return RetrievalDataset("made", memories, queries, {q: dict.fromkeys(f, 1.0) for q, f in positives.items()})


def one_each(names: list[str]) -> dict[str, list[str]]:
    return {f"{name} {name}": [name] for name in names}


def record_of(train: list[str], dev: list[str], test: list[str]) -> dict:
    def hashes(names: list[str], prefix: str) -> list[str]:
        return [text_hash(f"{prefix} {name}") for name in names]

    return {
        "seen": {
            part: {"query_hashes": [], "answer_hashes": hashes(names, "all about")}
            for part, names in (("train", train), ("dev", dev))
        },
        "split": {"answers": {"test": {name: text_hash(f"all about {name}") for name in test}}},
    }


RECORD = record_of(NAMES[:4], NAMES[4:6], NAMES[6:8])


def test_parts_by_text_and_by_positive() -> None:
    made = dataset({"amber amber": ["amber"], "new": ["kale"], "late": ["ginger", "lily"], "both": ["ebony", "hazel"]})
    earlier = EarlierSplit.of_record(RECORD)
    assert earlier_parts(made, earlier) == {"amber amber": "train", "late": "test", "both": "mixed"}
    texts = EarlierSplit.of_manifest({"queries": {"test": {"q": text_hash("Asking  NEW")}}})
    assert earlier_parts(made, texts) == {"new": "test"}
    assert EarlierSplit.of_record(None) is None


def test_metadata_and_record_must_agree() -> None:
    made = dataset(
        {"a": ["amber"], "b": ["ginger"], "c": ["kale"], "d": ["lily"]},
        a={"earlier_split": "test"}, b={"earlier_split": "test"}, c={"earlier_split": "dev"}, d={"earlier_split": "x"},
    )  # fmt: skip
    assert earlier_parts(made, EarlierSplit.of_record(RECORD)) == {"a": "mixed", "b": "test", "c": "dev"}


def test_record_of_weights_that_were_trained_twice() -> None:
    held = {"query_hashes": [], "answer_hashes": [text_hash("all about lily")]}
    earlier = EarlierSplit.of_record({**RECORD, "held_out": held})
    assert earlier.part("x", ["all about lily"]) == "test"
    assert earlier.part("x", ["all about ginger"]) == "test"


def test_test_queries_of_a_refit_on_all_queries_are_training_queries() -> None:
    record = record_of(NAMES[:8], NAMES[4:6], NAMES[6:8])
    record["held_out"] = {"query_hashes": [], "answer_hashes": [text_hash("all about ginger")]}
    earlier = EarlierSplit.of_record(record)
    assert earlier.part("x", ["all about ginger"]) == earlier.part("x", ["all about amber"]) == "train"


def test_new_queries_fill_what_the_earlier_split_left() -> None:
    split = split_dataset(dataset(one_each(NAMES)), earlier=EarlierSplit.of_record(RECORD))
    assert set(NAMES[:4]) <= set(split.answers["train"])
    assert set(NAMES[4:6]) <= set(split.answers["dev"])
    assert set(NAMES[6:8]) <= set(split.answers["test"])
    assert len(split.train) + len(split.dev) + len(split.test) == 12
    assert split.notes[0] == "8 of 12 components stay in their parts of an earlier training."


def test_test_query_that_is_connected_with_a_training_query_is_in_no_part() -> None:
    positives = {**one_each(NAMES), "bridge": ["amber", "ginger"]}
    split = split_dataset(dataset(positives), earlier=EarlierSplit.of_record(RECORD))
    used = {*split.train, *split.dev, *split.test}
    assert {*positives} - used == {"ginger ginger", "bridge"}
    assert "amber amber" in split.train
    assert "2 queries of an earlier test part are connected" in split.notes[1]


def test_nothing_that_was_trained_on_fills_an_empty_test_part() -> None:
    earlier = EarlierSplit.of_record(record_of(NAMES, [], []))
    with pytest.raises(DatasetError, match="an earlier training used or held out the memories of all queries"):
        split_dataset(dataset(one_each(NAMES)), earlier=earlier)


def test_damaged_manifest_holds_nothing() -> None:
    for value in ({"queries": [1]}, {"queries": {"test": ["x"]}}, {}):
        assert EarlierSplit.of_manifest(json.loads(json.dumps(value))).part("x", []) is None


@settings(max_examples=60)
@given(st.data())
def test_no_later_part_breaks_the_earlier_one(data: st.DataObject) -> None:
    several = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)
    positives = {f"q{number} {number}": data.draw(several) for number in range(14)}
    groups = [data.draw(st.sampled_from(["train", "dev", "test", "new", "new"])) for _ in NAMES]
    names = {part: [n for n, g in zip(NAMES, groups, strict=True) if g == part] for part in ("train", "dev", "test")}
    made, earlier = dataset(positives), EarlierSplit.of_record(record_of(*names.values()))
    try:
        split = split_dataset(made, settings=SplitSettings(seed=data.draw(st.integers(0, 9))), earlier=earlier)
    except DatasetError:
        return
    assert set(split.answers["test"]).isdisjoint([*names["train"], *names["dev"]])
    assert set(split.answers["train"]).isdisjoint(names["test"])
    assert set(split.answers["dev"]).isdisjoint([*names["test"], *names["train"]])
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert set(split.answers[one]).isdisjoint(split.answers[other])
