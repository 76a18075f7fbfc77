"""Held-out queries about known memories: which they are, that nothing of them is trained on, and old split files."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import dataset_files as files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.datasets.splits.audit import audit_split
from llama_index_ace_finetune.datasets.splits.earlier import EarlierSplit
from llama_index_ace_finetune.datasets.splits.known import hold_out_known
from llama_index_ace_finetune.datasets.splits.leakage import require_held_out
from llama_index_ace_finetune.datasets.splits.manifest import PARTS, Split
from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.datasets.splits.split import resplit_train_dev, split_dataset
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.datasets.types import Query, RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError, LeakageError


def _dataset(sizes: list[int], near: int = 1) -> RetrievalDataset:
    """A memory per size, with that many queries; `near` queries in a row have the same words."""
    queries, judgements = {}, {}
    for memory, size in enumerate(sizes):
        for n in range(size):
            order = " ".join(f"w{memory}x{n // near}y{word}" for word in range(4))
            queries[f"q{memory:03}-{n}"] = f"{order}{'.' * (n % near)}"
            judgements[f"q{memory:03}-{n}"] = {f"m{memory}": 1.0}
    return files.make_dataset(queries, {f"m{i}": f"text {i}" for i in range(len(sizes))}, judgements)


def _known(split: Split) -> set[str]:
    return {*split.dev_known, *split.test_known}


def test_a_tenth_of_the_train_queries_is_held_out_and_dev_and_test_stay() -> None:
    dataset = _dataset([4] * 100)
    split, without = split_dataset(dataset), split_dataset(dataset, settings=SplitSettings(known=0.0))
    assert (split.dev, split.test) == (without.dev, without.test)
    assert (len(without.train), len(without.dev_known)) == (240, 0)
    assert (len(split.train), len(split.dev_known), len(split.test_known)) == (216, 12, 12)
    assert sorted({*split.train, *_known(split)}) == list(without.train)
    assert max(Counter(q.split("-")[0] for q in _known(split)).values()) == 1
    assert audit_split(dataset, split).passed
    assert split != split_dataset(dataset, settings=SplitSettings(seed=1))


@settings(max_examples=8)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=90, max_size=110),
    near=st.integers(1, 3),
    known=st.sampled_from([0.1, 0.5]),
)
def test_every_memory_keeps_two_train_queries_and_no_near_duplicate_is_trained_on(
    sizes: list[int], near: int, known: float
) -> None:
    dataset = _dataset(sizes, near)
    train = sorted(dataset.queries)
    dev, test = hold_out_known(dataset, train, SplitSettings(known=known))
    held = {*dev, *test}
    assert len(held) == len(dev) + len(test) <= known * len(train)
    left = Counter(q.split("-")[0] for q in train if q not in held)
    assert all(left[q.split("-")[0]] >= 2 for q in held)
    trained = {frozenset(dataset.queries[q].text.rstrip(".").split()) for q in train if q not in held}
    assert not any(frozenset(dataset.queries[q].text.rstrip(".").split()) in trained for q in held)


def test_none_are_held_out_of_few_queries_or_of_memories_with_two() -> None:
    assert hold_out_known(_dataset([5] * 39), sorted(_dataset([5] * 39).queries), SplitSettings()) == ([], [])
    for sizes, near in (([2] * 200, 1), ([4] * 100, 4)):
        dataset = _dataset(sizes, near)
        assert hold_out_known(dataset, sorted(dataset.queries), SplitSettings()) == ([], [])
    large = _dataset([9] * 500)
    assert [len(part) for part in hold_out_known(large, sorted(large.queries), SplitSettings())] == [100, 100]
    with pytest.raises(DatasetError, match=r"known is 0\.6"):
        SplitSettings(known=0.6)


def test_synthetic_queries_and_queries_of_an_earlier_training_are_not_held_out() -> None:
    dataset = _dataset([4] * 100)
    synthetic = {i: Query(i, q.text, {"synthetic": "offline"}) for i, q in dataset.queries.items()}
    assert not _known(split_dataset(replace(dataset, queries=synthetic)))
    first = split_dataset(dataset)
    again = split_dataset(dataset, earlier=EarlierSplit.of_manifest(first.manifest()))
    # What was trained on or selected on before is known to the model; what was held out is not.
    assert _known(again) == _known(first)


def test_audit_counts_what_leaks_through_known_memories() -> None:
    dataset = _dataset([4] * 100)
    split = split_dataset(dataset)
    held = split.dev_known[0]
    memory = next(iter(dataset.relevant(held)))
    others = tuple(i for i in split.train if memory not in dataset.relevant(i))
    stranger = audit_split(dataset, replace(split, train=others))
    assert (stranger.count("not_known"), stranger.passed) == (1, False)
    trained = audit_split(dataset, replace(split, train=tuple(sorted((*split.train, held)))))
    assert (trained.count("query_id"), trained.passed) == (1, False)
    example = TrainingExample(held, dataset.queries[held].text, (memory,), split="train")
    assert audit_split(dataset, split, [example]).count("training_query_held_out") == 1
    data = TrainingData((example,), {memory: dataset.memories[memory].text}, split=split.manifest())
    with pytest.raises(LeakageError, match=held):
        require_held_out(data)


def test_known_parts_round_trip_and_old_files_load_without_them(tmp_path: Path) -> None:
    dataset = _dataset([4] * 100)
    split = split_dataset(dataset)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split
    held = split.test_known[0]
    manifest = split.manifest()
    assert manifest["queries"]["test_known"][held] == text_hash(dataset.queries[held].text)
    assert manifest["counts"]["test_known"] == {"queries": 12}
    old = split_dataset(dataset, settings=SplitSettings(known=0.0)).manifest()
    assert set(old["queries"]) == set(PARTS)
    del old["settings"]["known"]
    loaded = Split.load(files.write_json(tmp_path / "old.json", old))
    assert (loaded.settings.known, loaded.dev_known, loaded.test_known) == (0.0, (), ())


def test_resplit_holds_out_again_without_loss() -> None:
    dataset = _dataset([4] * 100)
    split = split_dataset(dataset)
    other = resplit_train_dev(dataset, split, dev_fraction=0.3, seed=3)
    assert other.test == split.test
    assert {*other.train, *other.dev, *_known(other)} == {*split.train, *split.dev, *_known(split)}
    assert audit_split(dataset, other).passed
