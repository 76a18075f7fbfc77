"""Datasets in which every query is also a document, under the same id, as in ArguAna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_index_ace_finetune.datasets.text import normalise

if TYPE_CHECKING:
    from llama_index_ace_finetune.datasets.types import RetrievalDataset

_EQUAL_TEXTS = 0.9
"""A few texts may have been cleaned differently; ids that are equal by chance belong to different texts."""


def own_documents(dataset: RetrievalDataset) -> Mapping[str, str]:
    """Return query id -> the memory of the same id if the whole dataset is of this kind; else nothing.

    It is if the ids of all queries are ids of memories, at least nine in ten of these memories hold the query's text
    (a title may precede it), and some query has another relevant memory. BEIR leaves such a document out of the ranking
    of its query (`ignore_identical_ids`), as it would always come first.
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
    """Return whether the texts are equal except for a title or cleaning."""
    shorter, longer = sorted((normalise(memory), normalise(query)), key=len)
    return shorter in longer and 2 * len(shorter) >= len(longer)
