"""Batches in which each distinct document is encoded once and every positive is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.data.false_negatives import FalseNegativeMask
from llama_index_ace_finetune.training.data.remined_negatives import ReminedNegatives

POSITIVE, NEGATIVE, MASKED = 1, 0, -1
QUERY_WEIGHT = "loss_weight"
"""Name, in the feature block of the queries, of their weights in the loss."""


@dataclass
class BatchCollator:
    """Turn example numbers into the two feature blocks and the targets that `MaskedRankingLoss` takes.

    A batch of q queries holds, for each, one positive (in rotation) and `hard_negatives` mined ones (they
    rotate); documents added by several queries are encoded once. Targets [q, d] mark every positive of a
    query that is in the batch, whichever query added it, and mask suspected false negatives and own documents.

    Attributes:
        preprocess: `preprocess(texts, prompt=..., task=...)` as of the model.
        examples: what the numbers mean.
        hard_negatives: mined negatives per query and batch.
        query_prompt: text in front of every query.
        document_prompt: text in front of every document.
        false_negatives: masks suspected ones; by default only known positives are masked.
        teacher: per query, a teacher's scores by corpus row; the labels then hold them beside the targets.
        weights: of the queries in the loss, float32 [n]; None if they are equal.
        remined: negatives that are mined again during the training; by default those of the examples are used.
        query_role: role in which the model embeds the block of the queries.
        document_role: the same of the documents.
        epoch: decides which positive and negatives are used.
        batch: number of the last batch.
        valid_label_columns: read by the trainer.
    """

    preprocess: Callable[..., dict[str, Any]]
    examples: IndexedExamples
    hard_negatives: int
    query_prompt: str
    document_prompt: str
    false_negatives: FalseNegativeMask | None = None
    teacher: Sequence[Mapping[int, float]] | None = None
    weights: NDArray[np.float32] | None = None
    remined: ReminedNegatives | None = None
    query_role: str = "query"
    document_role: str = "document"
    epoch: int = 0
    batch: int = 0
    valid_label_columns: list[str] = field(default_factory=list)

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        """Build the batch for dataset rows of the form {"example": number}."""
        numbers = [row["example"] for row in rows]
        self.batch += 1
        documents, targets = self.select(numbers)
        label = torch.from_numpy(targets)
        if self.teacher is not None:
            known = [[self.teacher[number].get(row, math.nan) for row in documents] for number in numbers]
            label = torch.stack([label.float(), torch.tensor(known)])
        batch: dict[str, Any] = {"label": label, "example": torch.tensor(numbers), "return_loss": True}
        queries = [self.examples.queries[number] for number in numbers]
        corpus = [self.examples.corpus[row] for row in documents]
        for block, texts, prompt, role in (
            ("query", queries, self.query_prompt, self.query_role),
            ("document", corpus, self.document_prompt, self.document_role),
        ):
            features = self.preprocess(texts, prompt=prompt or None, task=role)
            batch.update({f"{block}_{key}": value for key, value in features.items()})
        if self.weights is not None:
            batch[f"query_{QUERY_WEIGHT}"] = torch.from_numpy(self.weights[numbers])
        return batch

    def select(self, numbers: list[int]) -> tuple[list[int], NDArray[np.int8]]:
        """Return the corpus rows of the batch (distinct, in order of first use) and the targets int8 [q, d]."""
        columns: dict[int, int] = {}
        mined = self.remined.of_batch(self.batch) if self.remined else self.examples.negatives
        for number in numbers:
            relevant, negatives = self.examples.relevant[number], mined[number]
            chosen = [int(relevant[self.epoch % len(relevant)])]
            for step in range(min(self.hard_negatives, len(negatives))):
                chosen.append(int(negatives[(self.epoch * self.hard_negatives + step) % len(negatives)]))
            for row in chosen:
                columns.setdefault(row, len(columns))
        documents = list(columns)
        targets = np.full((len(numbers), len(documents)), NEGATIVE, np.int8)
        if self.false_negatives is not None:
            targets[self.false_negatives.mask(numbers, documents)] = MASKED
        if self.examples.own is not None:
            targets[np.array(documents)[None, :] == self.examples.own[numbers][:, None]] = MASKED
        for place, number in enumerate(numbers):
            targets[place, [columns[row] for row in self.examples.relevant[number].tolist() if row in columns]] = (
                POSITIVE
            )
        return documents, targets
