from __future__ import annotations

import pytest

from llama_index_ace_finetune.datasets.splits.leakage import require_held_out
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample
from llama_index_ace_finetune.errors import LeakageError

MEMORIES = {"1": "Rotate the key.", "2": "Drain the node.", "3": "Warm the cache."}
SPLIT = {
    "queries": {"train": {}, "dev": {}, "test": {"q9": text_hash("How do I drain it?")}},
    "answers": {"train": {}, "dev": {}, "test": {"2": text_hash("Drain the node.")}},
}


def data(*, query: str = "new key", positive: str = "1", negative: str = "3", split: str = "train") -> TrainingData:
    example = TrainingExample("q1", query, (positive,), (HardNegative(negative),), split=split)
    return TrainingData(examples=(example,), memories=MEMORIES, split=SPLIT)


def test_clean_data_passes() -> None:
    require_held_out(data())
    require_held_out(TrainingData(examples=data(positive="2").examples, memories=MEMORIES))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"query": "how do i  DRAIN it?"}, "'q1'"), ({"positive": "2"}, "a positive"), ({"negative": "2"}, "negative")],
)
def test_leaks_are_refused(change: dict[str, str], named: str) -> None:
    with pytest.raises(LeakageError, match=named):
        require_held_out(data(**change))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"query": "How do I drain it?"}, "The dev query 'q1'"), ({"positive": "2"}, "positive of dev query 'q1'")],
)
def test_dev_examples_with_test_data_are_refused(change: dict[str, str], named: str) -> None:
    with pytest.raises(LeakageError, match=named):
        require_held_out(data(**change, split="dev"))


def test_dev_examples_may_hold_dev_data() -> None:
    split = {"queries": {"dev": {"q1": text_hash("new key")}}, "answers": {"dev": {"1": text_hash("Rotate the key.")}}}
    dev = data(negative="2", split="dev").examples
    require_held_out(TrainingData(examples=dev, memories=MEMORIES, split=split))
    with pytest.raises(LeakageError, match="The training query 'q1'"):
        require_held_out(TrainingData(examples=data().examples, memories=MEMORIES, split=split))
