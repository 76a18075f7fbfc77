"""Sets in which every query is a document too, under the same id, as in ArguAna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_index_ace_finetune.datasets.text import normalise

if TYPE_CHECKING:
    from llama_index_ace_finetune.datasets.types import RetrievalDataset

_EQUAL_TEXTS = 0.9
"""A few texts may differ in how they were cleaned; ids that are equal by chance stand for different texts."""


def own_documents(dataset: RetrievalDataset) -> Mapping[str, str]:
    """Return query id -> the memory of the same id, where the whole set is of that shape; else nothing.

    It is where the ids of all queries are ids of memories, at least nine in ten of these memories hold the query's
    text (a title may stand before it), and some query has another memory that is right. BEIR leaves such a document
    out of the ranking of its query (`ignore_identical_ids`), which would find nothing but itself otherwise.
    """
    queries, memories = dataset.queries, dataset.memories
    if not queries or not all(query_id in memories for query_id in queries):
        return {}
    same = sum(_holds(memories[query_id].text, query.text) for query_id, query in queries.items())
    if same < _EQUAL_TEXTS * len(queries):
        return {}
    answers = dataset.answer_ids
    if not any(
        grade > 0 and answers[memory_id] != answers[query_id]
        for query_id, grades in dataset.judgements.items()
        for memory_id, grade in grades.items()
    ):
        return {}
    return {query_id: query_id for query_id in queries}


def _holds(memory: str, query: str) -> bool:
    """Say whether one is the other, but for a title or what a cleaning took off."""
    shorter, longer = sorted((normalise(memory), normalise(query)), key=len)
    return shorter in longer and 2 * len(shorter) >= len(longer)
