"""Known queries are those that a model was trained on, and never ones that its split holds out."""

from __future__ import annotations

from typing import Any

import dataset_files as files

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.datasets.text import text_hash

TEXTS = {"q1": "first", "q2": "second", "q3": "third", "q4": "First", "q5": "fifth"}


def test_known_queries_are_the_trained_ones_with_their_memories() -> None:
    about = {"q1": {"m1": 1.0}, "q2": {"m2": 1.0}, "q3": {"m1": 1.0}, "q4": {"m2": 1.0}, "q5": {"m1": 0.0}}
    dataset = files.make_dataset(TEXTS, {"m1": "one", "m2": "two"}, about)
    record: dict[str, Any] = {"seen": {"train": {"query_hashes": [text_hash(one) for one in TEXTS.values()]}}}
    known = KnownQueries.of(dataset, record)
    # Equal texts are one query, about the memories of both; one without a relevant memory is none.
    assert dict(zip(known.texts, known.answers, strict=True)) == {
        "first": ("m1", "m2"), "second": ("m2",), "third": ("m1",),
    }  # fmt: skip
    record["split"] = {"queries": {"train": {"q2": text_hash("second")}, "test_known": {"q3": text_hash("third")}}}
    assert KnownQueries.of(dataset, record).texts == ("first", "second")
    assert KnownQueries.of(dataset, None).texts == ()
