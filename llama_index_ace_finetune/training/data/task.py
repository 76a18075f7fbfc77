"""TrainingTask: one of several tasks of a training, with its own queries and corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from llama_index_ace_finetune.training.data.examples import IndexedExamples

MAX_DEV_QUERIES: Final = 200
"""Of a further task: they are reported and decide nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """A task beside the main one; its batches hold nothing of another task.

    Attributes:
        name: as logs and reports name it.
        examples: what is trained on.
        dev: its dev queries, over a corpus of their own; None if none could be set aside.
        query_role: role in which its queries are embedded; memories as queries are documents.
        document_role: role in which its corpus is embedded.
        derived: it is made from the main data set, rather than read from another one.
        left_out: number of rows that it lost, by reason.
    """

    name: str
    examples: IndexedExamples
    dev: IndexedExamples | None = None
    query_role: Literal["query", "document"] = "query"
    document_role: Literal["query", "document"] = "document"
    derived: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)
