"""Memories, queries, and judgements of which memory is relevant to which query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from llama_index_ace_finetune.datasets.ledger import Ledger
from llama_index_ace_finetune.datasets.text import normalise

MEMORY_ID_FIELDS: Final = ("memory_id", "bullet_id", "original_id")
"""Metadata or payload fields in which other systems keep the id of a memory, in order of preference."""

SYNTHETIC: Final = "synthetic"
"""Metadata key of a query that no user asked; its value names what made it."""

OFFLINE: Final = "offline"
"""That value for a query made of the memory's own words, without a language model."""

NO_METADATA: Mapping[str, Any] = MappingProxyType({})


def _no_metadata() -> Mapping[str, Any]:
    # A factory, as Python 3.10 and 3.11 take the unhashable proxy for a mutable default.
    return NO_METADATA


@dataclass(frozen=True, slots=True)
class Memory:
    """One text that can be retrieved.

    `id` is a string inside the package; a source's id of another type is in `metadata["source_id"]`.
    `text` is the text to embed: for LlamaIndex nodes, that of `MetadataMode.EMBED`.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=_no_metadata)


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a user."""

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=_no_metadata)


@dataclass(frozen=True)
class RetrievalDataset:
    """Memories, queries and judgements, tied together by ids.

    `judgements[query_id][memory_id]` is the grade as the source gives it: above 0 is relevant, 0 not relevant;
    a pair that is absent was never judged. The fields merge nothing; duplicates are derived: memories whose normalised
    texts are equal are one *answer*, and queries whose normalised texts are equal share their relevant answers.
    `own_documents[query_id]` is the memory that is the query itself, in datasets in which every query is also a
    document (see `own_documents.py`); it is never ranked for its query.
    """

    name: str
    memories: Mapping[str, Memory]
    queries: Mapping[str, Query]
    judgements: Mapping[str, Mapping[str, float]]
    ledger: Ledger = field(default_factory=Ledger)
    own_documents: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def answer_ids(self) -> Mapping[str, str]:
        """Memory id -> the id of its answer: the smallest id among the memories with an equal text."""
        return _smallest_id_per_text({m.id: m.text for m in self.memories.values()})

    @cached_property
    def query_groups(self) -> Mapping[str, str]:
        """Query id -> the smallest id among the queries with an equal text."""
        return _smallest_id_per_text({q.id: q.text for q in self.queries.values()})

    @cached_property
    def _relevant_by_group(self) -> Mapping[str, frozenset[str]]:
        groups: dict[str, set[str]] = {}
        for query_id, grades in self.judgements.items():
            positives = {self.answer_ids[memory_id] for memory_id, grade in grades.items() if grade > 0}
            groups.setdefault(self.query_groups[query_id], set()).update(positives)
        return {group: frozenset(positives) for group, positives in groups.items()}

    def relevant(self, query_id: str) -> frozenset[str]:
        """Answer ids that are relevant to the query, or to any query with an equal text."""
        return self._relevant_by_group.get(self.query_groups[query_id], frozenset())

    def judged_negative(self, query_id: str) -> frozenset[str]:
        """Answer ids with a grade of 0 or less for the query that are relevant to no query with its text."""
        negative = {self.answer_ids[m] for m, grade in self.judgements.get(query_id, {}).items() if grade <= 0}
        return frozenset(negative - self.relevant(query_id))

    def own_answer(self, query_id: str) -> str | None:
        """The answer id of the query's own document; None if it has none, or if a copy of it is relevant."""
        own = self.own_documents.get(query_id)
        answer = None if own is None else self.answer_ids[own]
        return None if answer is None or answer in self.relevant(query_id) else answer

    @cached_property
    def answers(self) -> Mapping[str, Memory]:
        """The distinct answers, sorted by id: the row order of every matrix over the corpus."""
        return {i: self.memories[i] for i in sorted(set(self.answer_ids.values()))}


def _smallest_id_per_text(texts: Mapping[str, str]) -> Mapping[str, str]:
    smallest: dict[str, str] = {}
    keys = {}
    for identifier, text in texts.items():
        key = keys[identifier] = normalise(text)
        held = smallest.get(key)
        if held is None or identifier < held:
            smallest[key] = identifier
    return {identifier: smallest[key] for identifier, key in keys.items()}


DIFFICULTIES = ("easy", "medium", "hard")


def answers_of_ambiguous_texts(dataset: RetrievalDataset) -> dict[str, frozenset[str]]:
    """Return query group -> all its relevant answer ids, for texts with different ones in different rows."""
    seen: dict[str, set[frozenset[str]]] = {}
    for identifier, group in dataset.query_groups.items():
        grades = dataset.judgements.get(identifier, {})
        positives = frozenset(dataset.answer_ids[m] for m, grade in grades.items() if grade > 0)
        if positives:
            seen.setdefault(group, set()).add(positives)
    return {group: frozenset().union(*positive_sets) for group, positive_sets in seen.items() if len(positive_sets) > 1}
