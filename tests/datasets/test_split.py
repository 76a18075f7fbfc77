"""Components stay whole, the order of the input does not matter, and sizes match the fractions."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import dataset_files as files
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.assignment import Component, assign
from llama_index_ace_finetune.datasets.splits.audit import audit_split
from llama_index_ace_finetune.datasets.splits.components import query_components
from llama_index_ace_finetune.datasets.splits.manifest import PARTS
from llama_index_ace_finetune.datasets.splits.split import (
    Split,
    SplitSettings,
    k_folds,
    resplit_train_dev,
    split_dataset,
)
from llama_index_ace_finetune.datasets.text import normalise, text_hash
from llama_index_ace_finetune.datasets.types import Memory, RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError


def _numbered(sizes: list[int], metadata: dict[str, dict[str, Any]] | None = None) -> RetrievalDataset:
    """One memory per size, relevant to that many dissimilar queries."""
    queries: dict[str, str] = {}
    judgements: dict[str, dict[str, float]] = {}
    for memory, size in enumerate(sizes):
        for n in range(size):
            queries[f"q{memory}-{n}"] = f"ask{memory}x{n}"
            judgements[f"q{memory}-{n}"] = {f"m{memory}": 1.0}
    return files.make_dataset(queries, {f"m{i}": f"text {i}" for i in range(len(sizes))}, judgements, metadata)


def _part_of(split: Split) -> dict[str, str]:
    return {i: part for part in PARTS for i in split.part(part)}


def _connected_by_hand(dataset: RetrievalDataset) -> list[set[str]]:
    """Reference implementation: grow each component pair by pair."""
    groups = [{i} for i in sorted(dataset.queries) if dataset.relevant(i)]
    texts = {i: normalise(q.text) for i, q in dataset.queries.items()}
    rights = {i: {normalise(dataset.memories[a].text) for a in dataset.relevant(i)} for i in texts}

    def tied(a: str, b: str) -> bool:
        return bool(
            rights[a] & rights[b]
            or texts[a] == texts[b]
            or texts[a] in rights[b]
            or texts[b] in rights[a]
            or set(texts[a].split()) == set(texts[b].split())
        )

    merged = True
    while merged:
        merged = False
        for one, other in combinations(groups, 2):
            if any(tied(a, b) for a in one for b in other):
                one |= other
                groups.remove(other)
                merged = True
                break
    return groups


_WORDS = st.sampled_from(["a", "B", "b", "c", "d"])
_SMALL_TEXT = st.lists(_WORDS, min_size=1, max_size=2).map(" ".join)


@st.composite
def _datasets(draw: st.DrawFn) -> RetrievalDataset:
    memories = {f"m{i}": f"mem {text}" for i, text in enumerate(draw(st.lists(_SMALL_TEXT, min_size=1, max_size=8)))}
    memories.update({f"v{i}": text for i, text in enumerate(draw(st.lists(_SMALL_TEXT, max_size=2)))})
    queries = {f"q{i}": text for i, text in enumerate(draw(st.lists(_SMALL_TEXT, min_size=1, max_size=10)))}
    grades = st.dictionaries(st.sampled_from(sorted(memories)), st.sampled_from([0.0, 1.0, 2.0]), max_size=3)
    metadata = {q: {"category": draw(st.sampled_from(["x", "y"]))} for q in queries}
    return files.make_dataset(queries, memories, {q: draw(grades) for q in queries}, metadata)


def _split_or_none(dataset: RetrievalDataset, options: SplitSettings) -> Split | None:
    try:
        return split_dataset(dataset, settings=options)
    except DatasetError:
        return None


@settings(max_examples=150)
@given(dataset=_datasets(), seed=st.integers(0, 3))
def test_components_stay_whole_and_every_query_is_assigned(dataset: RetrievalDataset, seed: int) -> None:
    groups = _connected_by_hand(dataset)
    split = _split_or_none(dataset, SplitSettings(seed=seed, near_duplicate=1.0))
    if split is None:
        assert len(groups) < 3
        return
    part_of = _part_of(split)
    assert sorted(part_of) == sorted(i for group in groups for i in group)
    assert set(split.without_answer) == set(dataset.queries) - set(part_of)
    assert split.components == len(groups)
    for group in groups:
        assert len({part_of[i] for i in group}) == 1
    assert audit_split(dataset, split).passed


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.randoms(use_true_random=False),
    pairs=st.lists(st.tuples(_SMALL_TEXT, _SMALL_TEXT), min_size=6, max_size=14),
)
def test_order_of_lines_does_not_change_the_split(
    tmp_path: Path, order: random.Random, pairs: list[tuple[str, str]]
) -> None:
    rows = [{"query": q, "positive": f"mem {p}", "category": p[:1]} for q, p in pairs]
    shuffled = order.sample(rows, len(rows))
    first = _split_or_none(read_dataset(files.write_json_lines(tmp_path / "p.jsonl", rows)), SplitSettings())
    second = _split_or_none(read_dataset(files.write_json_lines(tmp_path / "p.jsonl", shuffled)), SplitSettings())
    assert first == second


@pytest.mark.parametrize("seed", range(3))
def test_order_in_a_beir_folder_and_a_suite_does_not_change_the_split(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    corpus = [{"_id": f"d{i}", "text": f"text {i % 25}"} for i in range(30)]
    queries = [{"_id": f"q{i}", "text": f"ask for number {i % 35} please now"} for i in range(40)]
    qrels = [f"q{i}\td{(i * 7) % 30}\t1\n" for i in range(40)]
    plain = split_dataset(read_dataset(files.write_beir(tmp_path / "a" / "set", corpus, queries, "".join(qrels))))
    for rows in (corpus, queries, qrels):
        draw.shuffle(rows)
    mixed = split_dataset(read_dataset(files.write_beir(tmp_path / "b" / "set", corpus, queries, "".join(qrels))))
    assert plain == mixed
    cases = [
        {
            "memory_id": i,
            "content": f"text {i}",
            "generated_queries": [{"query": f"ask {i}"}, {"query": f"tell {i // 2}"}],
        }
        for i in range(20)
    ]
    one = split_dataset(read_dataset(files.write_json(tmp_path / "s.json", {"test_cases": cases})))
    draw.shuffle(cases)
    assert split_dataset(read_dataset(files.write_json(tmp_path / "s.json", {"test_cases": cases}))) == one


@settings(max_examples=60)
@given(dataset=_datasets(), k=st.integers(2, 4))
def test_folds_test_every_query_once(dataset: RetrievalDataset, k: int) -> None:
    options = SplitSettings(near_duplicate=1.0)
    groups = len(_connected_by_hand(dataset))
    if groups < k:
        with pytest.raises(DatasetError):
            k_folds(dataset, k=k, settings=options)
        return
    folds = k_folds(dataset, k=k, settings=options)
    tested = Counter(i for fold in folds for i in fold.test)
    assert set(tested.values()) == {1}
    assert set(tested) == {i for i in dataset.queries if dataset.relevant(i)}
    for fold in folds:
        assert fold.test
        assert len(_part_of(fold)) == len(fold.train) + len(fold.dev) + len(fold.test) == len(tested)
        assert audit_split(dataset, fold).passed


@settings(max_examples=40)
@given(dataset=_datasets(), k=st.integers(2, 4))
def test_folds_after_a_split_test_every_query_once(dataset: RetrievalDataset, k: int) -> None:
    try:
        first = split_dataset(dataset, settings=SplitSettings(near_duplicate=1.0))
        folds = k_folds(dataset, k=k, first=first)
    except DatasetError:
        return  # too few groups; the next test has enough
    assert folds[0] is first
    tested = Counter(i for fold in folds for i in fold.test)
    assert tested == Counter(i for i in dataset.queries if dataset.relevant(i))
    for fold in folds:
        assert fold.test
        assert fold.train
        assert fold.dev
        assert audit_split(dataset, fold).passed


def test_folds_after_a_split_by_hand() -> None:
    dataset = _numbered([4] * 100)
    first = split_dataset(dataset)
    folds = k_folds(dataset, k=4, first=first)
    assert [len(fold.test) for fold in folds] == [100] * 4
    for fold in folds:
        held = {*fold.test, *fold.dev, *fold.dev_known, *fold.test_known}
        assert held.isdisjoint(fold.train)
        assert len(held) + len(fold.train) == 400
        assert not {i.split("-")[0] for i in fold.test} & {i.split("-")[0] for i in {*dataset.queries} - {*fold.test}}
    assert {i.split("-")[0] for i in folds[1].dev_known} <= {i.split("-")[0] for i in folds[1].train}
    assert len(folds[1].dev_known) == len(first.dev_known) > 0


def test_folds_that_a_split_leaves_no_room_for() -> None:
    four = _numbered([1] * 4)
    first = split_dataset(four)
    assert len(first.test) == 1
    with pytest.raises(DatasetError, match=r"of which 1 are in the test part of the split; choose between 2 and 4\."):
        k_folds(four, k=5, first=first)
    with pytest.raises(DatasetError, match="fold 2 of 2 tests 3 of 4 queries, which leaves dev empty"):
        k_folds(four, k=2, first=first)


def test_fractions_are_exact_if_components_allow() -> None:
    split = split_dataset(_numbered([1] * 100))
    assert (len(split.train), len(split.dev), len(split.test)) == (60, 15, 25)
    split = split_dataset(_numbered([4] * 25), settings=SplitSettings(train=0.8, dev=0.0, test=0.2))
    assert (len(split.train), len(split.dev), len(split.test)) == (80, 0, 20)


def test_seeds_differ_and_repeat() -> None:
    dataset = _numbered([1] * 40)
    again = [split_dataset(dataset, settings=SplitSettings(seed=s)).test for s in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def test_oversized_component_goes_to_train_and_is_noted() -> None:
    split = split_dataset(_numbered([60, *[1] * 40]))
    assert {i for i in split.train if i.startswith("q0-")} == {f"q0-{n}" for n in range(60)}
    assert (len(split.train), len(split.dev), len(split.test)) == (60, 15, 25)
    assert split.notes == (
        "A component of 60 of 100 queries (from q0-0) is larger than the test fraction of 0.25 and goes to train.",
    )
    assert split.largest_component == 60


def test_three_large_components_fill_three_parts() -> None:
    split = split_dataset(_numbered([5, 4, 3]))
    assert {len(split.train), len(split.dev), len(split.test)} == {5, 4, 3}
    assert len(split.train) == 5
    assert any(note.endswith("which would be empty otherwise.") for note in split.notes)


def test_categories_are_balanced() -> None:
    metadata = {f"q{m}-0": {"category": "ab"[m % 2]} for m in range(100)}
    dataset = _numbered([1] * 100, metadata)
    split = split_dataset(dataset)
    counts = {part: Counter(dataset.queries[i].metadata["category"] for i in split.part(part)) for part in PARTS}
    assert counts["train"] == {"a": 30, "b": 30}
    assert abs(counts["test"]["a"] - counts["test"]["b"]) <= 1


def test_group_field_of_queries_or_answers_keeps_together() -> None:
    metadata = {f"q{m}-0": {"talk": m // 5} for m in range(50)}
    dataset = _numbered([1] * 50, metadata)
    split = split_dataset(dataset, settings=SplitSettings(group_field="talk"))
    part_of = _part_of(split)
    assert split.components == 10
    assert all(len({part_of[f"q{5 * t + n}-0"] for n in range(5)}) == 1 for t in range(10))
    cut = split_dataset(dataset)
    assert audit_split(dataset, cut).passed
    with pytest.raises(DatasetError, match="group field 'nope'"):
        split_dataset(dataset, settings=SplitSettings(group_field="nope"))


def test_components_by_hand() -> None:
    dataset = files.make_dataset(
        {
            "q1": "how do i define",
            "q2": "how do i design",
            "q3": "restart the nightly indexing job after a crash",
            "q4": "restart the nightly indexing job after the crash",
            "q5": "Keep it short",
            "q6": "unlike anything",
            "q7": "HOW do I define",
        },
        {"m1": "one", "m2": "two", "m3": "three", "m4": "four", "m5": "five", "m6": "keep IT short", "m7": "seven"},
        {f"q{n}": {f"m{n}": 1.0} for n in range(1, 8)},
    )
    numbers = query_components(dataset, [f"q{n}" for n in range(1, 8)], threshold=0.8)
    # q1 = q7 (equal text), q3 ~ q4 (near), q5 is the text of q6's answer; q1 and q2 differ in the one word that counts.
    assert numbers.tolist() == [0, 1, 2, 2, 3, 3, 0]


def test_manifest_and_round_trip(tmp_path: Path) -> None:
    dataset = files.make_dataset(
        {f"q{n}": f"ask {n}" for n in range(5)},
        {f"m{n}": f"Text {n}" for n in range(5)},
        {f"q{n}": {f"m{n}": 1.0} for n in range(4)},
    )
    split = split_dataset(dataset, settings=SplitSettings(seed=7))
    manifest = split.manifest()
    assert manifest["version"] == 1
    assert manifest["settings"]["seed"] == 7
    assert manifest["counts"]["without_answer"] == 1
    assert manifest["without_answer"] == ["q4"]
    query_id = split.test[0]
    assert manifest["queries"]["test"][query_id] == text_hash(f"ask {query_id[1]}")
    assert manifest["answers"]["test"] == {f"m{query_id[1]}": text_hash(f"text {query_id[1]}")}
    split.save(tmp_path / "new" / "split.json")
    assert Split.load(tmp_path / "new" / "split.json") == split
    assert json.loads((tmp_path / "new" / "split.json").read_text()) == manifest
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["split.json"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dataset=_datasets())
def test_split_json_round_trips(tmp_path: Path, dataset: RetrievalDataset) -> None:
    split = _split_or_none(dataset, SplitSettings(train=1.0, dev=0.0, test=0.0))
    if split is None:
        assert not any(dataset.relevant(i) for i in dataset.queries)
        return
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(), put=st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2))
)
def test_damaged_split_is_read_or_refused(tmp_path: Path, data: st.DataObject, put: object) -> None:
    manifest = split_dataset(_numbered([1] * 6)).manifest()
    key = data.draw(st.sampled_from(sorted(manifest)))
    if isinstance(manifest[key], dict) and data.draw(st.booleans()):
        manifest[key] = {**manifest[key], data.draw(st.sampled_from(sorted(manifest[key]))): put}
    else:
        manifest[key] = put
    path = files.write_json(tmp_path / "split.json", manifest)
    try:
        outcome = set(Split.load(path).answers)
    except DatasetError as error:
        outcome = {str(path)} if str(path) in str(error) else {str(error)}
    assert outcome in (set(PARTS), {str(path)})


def test_resplit_keeps_the_test_part() -> None:
    dataset = _numbered([1] * 100)
    split = split_dataset(dataset)
    other = resplit_train_dev(dataset, split, dev_fraction=0.4, seed=1)
    assert other.test == split.test
    assert (len(other.train), len(other.dev)) == (45, 30)
    assert sorted((*other.train, *other.dev)) == sorted((*split.train, *split.dev))
    assert other.settings.train == pytest.approx(0.45)
    assert audit_split(dataset, other).passed


@pytest.mark.parametrize(
    "options",
    [
        {"train": 0.9},
        {"train": -0.1, "dev": 0.85},
        {"test": float("nan")},
        {"near_duplicate": 0.0},
        {"near_duplicate": 1.1},
    ],
)
def test_bad_settings(options: dict[str, float]) -> None:
    with pytest.raises(DatasetError, match="Split: "):
        SplitSettings(**options)


def test_data_that_cannot_be_split() -> None:
    with pytest.raises(DatasetError, match="1 independent group"):
        split_dataset(_numbered([9]))
    with pytest.raises(DatasetError, match="no query has a relevant memory"):
        split_dataset(files.make_dataset({"q": "a"}, {"m": "b"}, {"q": {"m": 0.0}}))
    with pytest.raises(DatasetError, match="choose between 2 and 3"):
        k_folds(_numbered([1, 1, 1]), k=4)
    with pytest.raises(DatasetError, match="no part 'all'"):
        split_dataset(_numbered([1] * 9)).part("all")
    two = _numbered([1, 1])
    halves = split_dataset(two, settings=SplitSettings(train=0.5, dev=0.0, test=0.5))
    with pytest.raises(DatasetError, match="choose another dev_fraction"):
        resplit_train_dev(two, halves, dev_fraction=0.5)
    with pytest.raises(DatasetError):
        resplit_train_dev(_numbered([1] * 9), split_dataset(_numbered([1] * 9)), dev_fraction=1.5)


def test_load_refuses_another_version(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a split of version 1"):
        Split.load(files.write_json(tmp_path / "split.json", {"version": 2}))
    with pytest.raises(DatasetError, match="no such file"):
        Split.load(tmp_path / "absent.json")
    with pytest.raises(DatasetError, match="cannot be written"):
        split_dataset(_numbered([1] * 6)).save(tmp_path / "split.json" / "below")


def test_assignment_by_hand() -> None:
    components = [Component((f"q{i}",) * size, {}) for i, size in enumerate([3, 2, 2, 1])]
    # Targets 4 and 4: 3 | - , then 2 to the emptier part, 2 more fit there, and 1 fills the first.
    assert assign(components, [0.5, 0.5], seed=0, fixed={}) == [0, 1, 1, 0]
    assert assign(components, [0.5, 0.5], seed=0, fixed={0: 1}) == [1, 0, 0, 1]


def test_ace_split_is_near_its_fractions(shared_data: Path) -> None:
    dataset = read_dataset(shared_data / "ace")
    split = split_dataset(dataset)
    assert split.largest_component == 622
    assert abs(len(split.test) / 1038 - 0.25) < 0.01
    assert abs(len(split.dev) / 1038 - 0.15) < 0.01
    assert len(split.notes) == 1
    assert audit_split(dataset, split).passed
    folds = k_folds(dataset, k=4)
    assert Counter(i for fold in folds for i in fold.test) == Counter(list(dataset.queries))


def test_memories_without_queries_say_that_queries_are_missing() -> None:
    memories = {name: Memory(name, f"text of {name}") for name in ("a", "b", "c")}
    with pytest.raises(DatasetError, match=r"there are 3 memories and no queries; give the queries .* synthesize"):
        split_dataset(RetrievalDataset("playbook", memories, {}, {}))
