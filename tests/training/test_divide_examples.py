from __future__ import annotations

import dataclasses

import pytest

from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.training.data.divide_examples import divide_examples

WORDS = ["disk", "queue", "token", "cache", "deploy", "login", "backup", "metric", "index", "mail"]


def example(number: int, memory: int, split: str | None, negatives: list[int] | None = None) -> TrainingExample:
    return TrainingExample(
        query_id=f"q{number}",
        query=f"{WORDS[memory]} trouble {number}",
        positive_ids=(f"m{memory}",),
        negatives=tuple(HardNegative(f"m{i}") for i in negatives or []),
        split=split,
    )


def data(examples: list[TrainingExample]) -> TrainingData:
    return TrainingData(tuple(examples), {f"m{i}": f"what to do about {word}" for i, word in enumerate(WORDS)})


def ids(examples: list[TrainingExample]) -> list[str]:
    return [example.query_id for example in examples]


def test_given_splits_are_kept_and_test_is_left_out() -> None:
    marked = [example(0, 0, "train"), example(1, 1, "dev"), example(2, 2, "test"), example(3, 3, "train")]
    train, dev = divide_examples(data(marked), train_split=0.8, seed=0)
    assert ids(train) == ["q0", "q3"]
    assert ids(dev) == ["q1"]


def test_positives_of_dev_are_not_training_negatives() -> None:
    marked = [example(0, 0, "train", [1, 2, 3]), example(1, 1, "dev", [0])]
    train, dev = divide_examples(data(marked), train_split=0.8, seed=0)
    assert train[0].negative_ids == ("m2", "m3")
    assert dev[0].negative_ids == ("m0",)


def test_positives_of_test_and_equal_texts_are_not_training_negatives() -> None:
    marked = [example(0, 0, "train", [1, 2, 3]), example(1, 1, "test")]
    held_out = data(marked)
    memories = {**held_out.memories, "m3": held_out.memories["m1"].upper()}
    train, _ = divide_examples(TrainingData(held_out.examples, memories), train_split=0.8, seed=0)
    assert train[0].negative_ids == ("m2",)


def test_dev_is_split_off_if_the_data_has_none() -> None:
    marked = [example(number, number % 10, "train") for number in range(20)]
    train, dev = divide_examples(data([*marked, example(20, 9, "test")]), train_split=0.8, seed=0)
    assert (len(train), len(dev)) == (16, 4)
    assert {i for one in dev for i in one.positive_ids}.isdisjoint(i for one in train for i in one.positive_ids)


def test_split_without_dev_is_kept() -> None:
    split = dataclasses.replace(data([example(0, 0, "train"), example(1, 1, None)]), split={"seed": 0})
    train, dev = divide_examples(split, train_split=0.5, seed=0)
    assert ids(train) == ["q0", "q1"]
    assert dev == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_given_splits_no_positive_is_in_train_and_dev(seed: int) -> None:
    unmarked = [example(number, number % 10, None, [(number + 1) % 10, (number + 2) % 10]) for number in range(50)]
    train, dev = divide_examples(data(unmarked), train_split=0.8, seed=seed)
    assert (len(train), len(dev)) == (40, 10)
    held = {i for one in dev for i in one.positive_ids}
    assert held.isdisjoint(i for one in train for i in one.positive_ids)
    assert held.isdisjoint(i for one in train for i in one.negative_ids)
    assert ids(divide_examples(data(unmarked), train_split=0.8, seed=seed)[1]) == ids(dev)


def test_queries_of_equal_text_stay_together() -> None:
    unmarked = [example(number, number % 10, None) for number in range(20)]
    same = [
        TrainingExample(query_id=f"s{memory}", query="It  Fails", positive_ids=(f"m{memory}",)) for memory in (0, 5)
    ]
    train, dev = divide_examples(data([*unmarked, *same]), train_split=0.7, seed=0)
    for part in (train, dev):
        texts = [normalise(one.query) for one in part]
        assert texts.count("it fails") in (0, 2)
    assert dev


def test_single_group_cannot_be_divided() -> None:
    with pytest.raises(DatasetError, match="leaves dev empty"):
        divide_examples(data([example(number, 0, None) for number in range(20)]), train_split=0.8, seed=0)
