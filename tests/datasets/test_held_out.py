from __future__ import annotations

import pytest

from llama_index_ace_finetune.datasets.splits.held_out import HeldOut, LeftOut
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample

MEMORIES = {"1": "Rotate the key.", "2": "Drain the node.", "3": "Warm the cache."}
MAIN = TrainingData(
    examples=(
        TrainingExample("q1", "how do I get a new key?", ("1",), split="train"),
        TrainingExample("q2", "which cache has to be warm before we deploy the gateway?", ("3",), split="dev"),
    ),
    memories=MEMORIES,
    split={
        "settings": {"near_duplicate": 0.8},
        "queries": {"dev": {"q2": text_hash("x")}, "test": {"q9": text_hash("How do I drain it?")}},
        "answers": {"test": {"2": text_hash("Drain the node.")}},
    },
)
HELD = HeldOut.of(MAIN, [MAIN.examples[1]], ["may we restart the billing database during office hours?"])


def further(query: str, positive: str = "a", negatives: tuple[str, ...] = ()) -> TrainingData:
    memories = {"a": "Close the window.", "b": "drain  THE node.", "c": "Open the door."}
    example = TrainingExample("f", query, (positive,), tuple(HardNegative(one) for one in negatives))
    return TrainingData(examples=(example,), memories=memories)


@pytest.mark.parametrize(
    ("query", "positive", "lost"),
    [
        ("where is the window?", "a", LeftOut()),
        ("how do i DRAIN it?", "a", LeftOut(queries=1)),  # of test, by its hash
        ("before we deploy the gateway, which cache has to be warm?", "a", LeftOut(queries=1)),  # the words of dev
        ("may we restart the billing database during the office hours?", "a", LeftOut(queries=1)),  # near one of test
        ("how do I get a new key?", "a", LeftOut()),  # a query of train
        ("what about the node?", "b", LeftOut(answers=1)),
    ],
)
def test_rows_with_held_out_queries_and_answers_are_left_out(query: str, positive: str, lost: LeftOut) -> None:
    data, left_out = HELD.without(further(query, positive))
    assert left_out == lost
    assert len(data.examples) == (1 if lost == LeftOut() else 0)


def test_negatives_that_are_held_out_answers_are_left_out() -> None:
    data, left_out = HELD.without(further("where is the window?", negatives=("b", "c")))
    assert left_out == LeftOut()
    assert data.examples[0].negative_ids == ("c",)


def test_equal_words_are_found_among_many_texts_with_them() -> None:
    # Texts with equal words are paired in a chain only, of which the held-out one may be the end.
    texts = [f"is {'very ' * n}cold water good for the engine" for n in range(1, 6)]
    held = HeldOut(frozenset(), frozenset(), ("engine the for good water very cold is",))
    assert held.holds_query(texts).tolist() == [True] * 5
    assert held.holds_query(["nothing of that kind was ever asked"]).tolist() == [False]


def test_data_without_a_manifest_hold_out_their_dev_examples() -> None:
    held = HeldOut.of(TrainingData(MAIN.examples, MEMORIES), [MAIN.examples[0]])
    assert held.holds_query(["How do I get a new key?", "How do I drain it?"]).tolist() == [True, False]
    assert held.holds_answer(["rotate the key.", "Warm the cache.", "Drain the node."]).tolist() == [True, True, False]
