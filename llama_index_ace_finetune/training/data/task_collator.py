"""TaskCollator: builds a batch with the collator of its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llama_index_ace_finetune.training.data.batches import BatchCollator


@dataclass
class TaskCollator:
    """Turn example numbers of one task into a batch.

    Attributes:
        collators: of each task; the first is the main one.
        batch: number of the last batch, of all tasks.
        valid_label_columns: read by the trainer.
    """

    collators: Sequence[BatchCollator]
    batch: int = 0
    valid_label_columns: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        sizes = [len(collator.examples.queries) for collator in self.collators]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])

    @property
    def epoch(self) -> int:
        """Which positives and negatives are used; all tasks have the same epoch."""
        return self.collators[0].epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        for collator in self.collators:
            collator.epoch = value

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        """Build the batch for dataset rows of the form {"example": number}, all of one task."""
        numbers = [row["example"] for row in rows]
        (task,) = {int(one) for one in np.searchsorted(self._offsets, numbers, side="right") - 1}
        offset, collator = int(self._offsets[task]), self.collators[task]
        collator.batch, self.batch = self.batch, self.batch + 1
        batch = collator([{"example": number - offset} for number in numbers])
        return {**batch, "example": batch["example"] + offset}
