"""Further tasks on their own dev queries, with the base and with what ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference, paired_difference
from llama_index_ace_finetune.training.data.task import TrainingTask
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet


def task_mrr(task: TrainingTask, encoder: Encoder, *, cache: Path | None = None) -> NDArray[np.float64] | None:
    """Return MRR@10 of each dev query of a task, float64 [n]; None if it has none."""
    if task.dev is None:
        return None
    queries = encoder.encode(task.dev.queries, role=task.query_role, cache=cache)
    documents = encoder.encode(task.dev.corpus, role=task.document_role, cache=cache)
    return DevSet(task.dev).rank(queries, documents).mrr


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task, and MRR@10 on its dev queries.

    Attributes:
        task: the task.
        probability: part of the batches that were its own.
        base: mean of the base model; None without dev queries.
        tuned: of what ships.
        difference: of both, with its interval.
    """

    task: TrainingTask
    probability: float
    base: float | None = None
    tuned: float | None = None
    difference: PairedDifference | None = None

    @classmethod
    def of(
        cls,
        task: TrainingTask,
        probability: float,
        base: NDArray[np.float64] | None,
        tuned: NDArray[np.float64] | None,
    ) -> TaskResult:
        """Compare the values of `task_mrr` of the base and of what ships."""
        if task.dev is None or base is None or tuned is None:
            return cls(task, probability)
        groups = DevSet(task.dev).groups
        return cls(
            task, probability, float(base.mean()), float(tuned.mean()), paired_difference(tuned, base, groups=groups)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        task, dev = self.task, self.task.dev
        return {
            "name": task.name,
            "derived": task.derived,
            "queries": len(task.examples.queries),
            "memories": len(task.examples.corpus),
            "left_out": dict(task.left_out),
            "probability": round(self.probability, 6),
            "dev_queries": len(dev.queries) if dev else 0,
            "dev_memories": len(dev.corpus) if dev else 0,
            "base_mrr@10": self.base,
            "tuned_mrr@10": self.tuned,
            "difference_mrr@10": asdict(self.difference) if self.difference else None,
        }

    def __str__(self) -> str:
        facts = f"task {self.task.name}: {self.probability:.0%} of the batches"
        if self.difference is None:
            return f"{facts}; it has no dev queries"
        return f"{facts}; dev MRR@10 {self.base:.3f} with the base, {self.tuned:.3f} tuned, {self.difference}"


def task_results(
    tasks: Sequence[TrainingTask],
    probabilities: Sequence[float],
    base: Sequence[NDArray[np.float64] | None],
    tuned: Sequence[NDArray[np.float64] | None],
) -> list[TaskResult]:
    """Return the result of each task; see `TaskResult.of`."""
    return [TaskResult.of(*one) for one in zip(tasks, probabilities, base, tuned, strict=True)]
