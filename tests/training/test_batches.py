from __future__ import annotations

from typing import Any

import numpy as np
import torch

from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample
from llama_index_ace_finetune.training.data.batches import BatchCollator
from llama_index_ace_finetune.training.data.examples import IndexedExamples, index_examples


def example(query: str, positives: list[str], hard_negatives: list[str], split: str = "train") -> TrainingExample:
    negatives = tuple(HardNegative(i) for i in hard_negatives)
    return TrainingExample(query_id=query, query=query, positive_ids=tuple(positives), negatives=negatives, split=split)


def rows(*values: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(value, np.int64) for value in values)


EXAMPLES = IndexedExamples(
    query_ids=("q0", "q1", "q2"),
    queries=("zero", "one", "two"),
    corpus_ids=tuple("abcdefg"),
    corpus=tuple("ABCDEFG"),
    relevant=rows([0, 1], [2], [3]),
    negatives=rows([2, 4, 5], [1, 6], []),
)


class Recorder:
    """Replaces the model's `preprocess` and records its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], str | None, str]] = []

    def __call__(self, texts: list[str], *, prompt: str | None, task: str) -> dict[str, Any]:
        self.calls.append((texts, prompt, task))
        return {"input_ids": torch.zeros(len(texts), 2), "attention_mask": torch.ones(len(texts), 2)}


def collator(hard_negatives: int = 1, **options: Any) -> BatchCollator:
    return BatchCollator(
        preprocess=Recorder(),
        examples=EXAMPLES,
        hard_negatives=hard_negatives,
        query_prompt="query: ",
        document_prompt="",
        **options,
    )


# ------------------------------------------------------------------------------------------------ batches


def test_documents_are_distinct_and_every_positive_is_labelled() -> None:
    documents, targets = collator().select([0, 1, 2])
    # q0 adds 0 and its negative 2; q1 adds only its negative 1, since 2 is there already; q2 adds 3.
    assert documents == [0, 2, 1, 3]
    assert targets.dtype == np.int8
    # 1 is a positive of q0 although q1 added it as a negative.
    assert targets.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


def test_positives_and_negatives_rotate_over_epochs() -> None:
    batches = collator(hard_negatives=2)
    documents = []
    for epoch in range(4):
        batches.epoch = epoch
        documents.append(batches.select([0])[0])
    assert documents == [[0, 2, 4], [1, 5, 2], [0, 4, 5], [1, 2, 4]]
    assert batches.select([0])[0] == documents[3]


def test_without_hard_negatives_only_positives_are_selected() -> None:
    documents, targets = collator(hard_negatives=0).select([1, 2])
    assert documents == [2, 3]
    assert targets.tolist() == [[1, 0], [0, 1]]


def test_suspected_false_negatives_are_masked_but_never_positives() -> None:
    class SuspectedRows:
        def mask(self, numbers: list[int], documents: list[int]) -> np.ndarray:
            suspected = {0: {2, 1, 6}, 2: {0}}
            return np.array([[row in suspected.get(number, ()) for row in documents] for number in numbers])

    documents, targets = collator(false_negatives=SuspectedRows()).select([0, 1, 2])
    assert documents == [0, 2, 1, 3]
    assert targets.tolist() == [[1, -1, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 1]]


def test_batch_holds_queries_and_documents_with_their_prompts() -> None:
    batches = collator()
    batch = batches([{"example": 1}, {"example": 2}])
    assert batch["label"].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert batch["example"].tolist() == [1, 2]
    assert batch["return_loss"] is True
    assert batch["query_input_ids"].shape == (2, 2)
    assert batch["document_attention_mask"].shape == (3, 2)
    assert batches.preprocess.calls == [  # type: ignore[attr-defined]
        (["one", "two"], "query: ", "query"),
        (["C", "B", "D"], None, "document"),
    ]


# ------------------------------------------------------------------------------------------------ indexed examples


def test_equal_texts_are_one_row_and_equal_queries_share_positives() -> None:
    examples = (
        example("restart?", ["1"], ["2", "3", "4"]),
        example("Restart?", ["3"], ["2"], split="dev"),
        example("other", ["4"], ["1", "2", "1"]),
    )
    data = TrainingData(
        examples=examples, memories={"1": "Restart it", "2": "restart  IT", "3": "Wait", "4": "Stop", "5": "Unused"}
    )
    indexed = index_examples(data, [examples[0], examples[2]])
    assert indexed.corpus == ("Restart it", "Wait", "Stop", "Unused")
    assert indexed.corpus_ids == ("1", "3", "4", "5")
    assert indexed.query_ids == ("restart?", "other")
    # 2 has the text of 1. 3 is a positive of the same query text in another split, so it is not a negative either.
    assert [r.tolist() for r in indexed.relevant] == [[0], [2]]
    assert [r.tolist() for r in indexed.negatives] == [[2], [0]]
    # Within one split, equal queries share their positives.
    assert [r.tolist() for r in index_examples(data, examples).relevant] == [[0, 1], [0, 1], [2]]
