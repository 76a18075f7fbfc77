"""General queries on which tuning may lose a little and no more."""

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
    """What the base model reaches on general queries, and how far below it a tuned model may lie.

    Attributes:
        queries: over memories of their own.
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
        """Return what came of it, with the loss of each share that was measured."""
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
    """How much general queries lost.

    Attributes:
        queries: how many there are.
        memories: how many they were ranked over.
        base_mrr: MRR@10 of the base model.
        bound: largest fall that is allowed.
        losses: fall of MRR@10 per share of the tuned weights that was measured, from the best on dev on.
    """

    queries: int
    memories: int
    base_mrr: float
    bound: float
    losses: Mapping[float, float]

    @property
    def rule(self) -> str:
        """What is asked of a share before it ships."""
        return (
            f"A share whose MRR@10 on {self.queries} general queries falls by more than {self.bound:g} does not ship; "
            "smaller ones are tried instead."
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
    """Return the queries of a dataset that have a right answer, over all its memories.

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
