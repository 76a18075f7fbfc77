"""Forgetting constraint: general queries on which MRR@10 may fall only by a bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet


@dataclass(frozen=True)
class Retention:
    """A retention set, the base model's MRR@10 on it, and the largest allowed fall.

    Attributes:
        queries: over their own memories.
        base_mrr: MRR@10 of the base model.
        bound: largest fall of MRR@10, absolute.
    """

    queries: DevSet
    base_mrr: float
    bound: float

    def loss(self, scores: DevScores) -> float:
        """Return the fall of MRR@10 from the base to `scores`; negative where they are better."""
        return self.base_mrr - float(scores.mrr.mean())

    def record(self, losses: Mapping[float, float]) -> RetentionRecord:
        """Return the record of the measured losses, by alpha."""
        examples = self.queries.examples
        return RetentionRecord(
            queries=len(examples.queries),
            memories=len(examples.corpus),
            base_mrr=self.base_mrr,
            bound=self.bound,
            losses=dict(losses),
        )


@dataclass(frozen=True)
class RetentionRecord:
    """Result on the retention set.

    Attributes:
        queries: number of queries.
        memories: number of memories they were ranked over.
        base_mrr: MRR@10 of the base model.
        bound: largest allowed fall.
        losses: fall of MRR@10 by alpha, best on dev first.
    """

    queries: int
    memories: int
    base_mrr: float
    bound: float
    losses: Mapping[float, float]

    @property
    def rule(self) -> str:
        """The rule, in words."""
        return (
            f"Weights whose MRR@10 on {self.queries} general queries falls by more than {self.bound:g} do not ship; "
            "a smaller alpha is tried instead."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "queries": self.queries,
            "memories": self.memories,
            "base_mrr@10": self.base_mrr,
            "bound": self.bound,
            "losses_mrr@10": {str(alpha): loss for alpha, loss in self.losses.items()},
        }


def read_retention(path: Path) -> DevSet:
    """Return the queries of a dataset that have a positive, over all its memories.

    Raises:
        DatasetError: if it cannot be read, or holds no such query.
    """
    dataset = read_dataset(path)
    examples = tuple(
        TrainingExample(query_id=i, query=query.text, positive_ids=tuple(sorted(right)), negatives=())
        for i, query in dataset.queries.items()
        if (right := dataset.relevant(i))
    )
    memories = {identifier: memory.text for identifier, memory in dataset.answers.items()}
    return DevSet(index_examples(TrainingData(examples=examples, memories=memories), examples))
