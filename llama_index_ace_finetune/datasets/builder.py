"""Collects what a reader finds, cleans it up, and notes everything it changed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias, TypeVar

from llama_index_ace_finetune.datasets.ledger import LedgerBuilder
from llama_index_ace_finetune.datasets.mojibake import repair_mojibake
from llama_index_ace_finetune.datasets.normalise import normalise
from llama_index_ace_finetune.datasets.place import AnyPlace
from llama_index_ace_finetune.datasets.sameness import answers_of_ambiguous_texts
from llama_index_ace_finetune.datasets.text_files import json_type
from llama_index_ace_finetune.datasets.types import NO_METADATA, Memory, Query, RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError

OVER_LONG_CHARACTERS = 8192
"""Texts beyond this are kept and counted; encoders cut them long before."""

_SURROGATES = re.compile("[\ud800-\udfff]")

Kind: TypeAlias = Literal["memory", "query"]
_Row = TypeVar("_Row", Memory, Query)


class DatasetBuilder:
    """Builds a RetrievalDataset row by row; nothing is changed or dropped without a note in the ledger.

    Rules noted while rows come in, K being memory or query: `mojibake_repaired_K`, `lone_surrogate_replaced`,
    `empty_K_dropped`, `over_long_K`, `repeated_K_id` (same text), `repeated_judgement`, `conflicting_grade` (the higher
    is kept), `judgement_of_empty_text_dropped`, `memory_text_overridden` (the first source wins). Rules noted by
    `build`: `equal_memory_text`, `ambiguous_query_text`, `query_without_right_answer`.
    """

    def __init__(self, name: str, format: str) -> None:  # noqa: A002 - the field's own name
        self.name = name
        self.ledger = LedgerBuilder(format)
        self.memories: dict[str, Memory] = {}
        self.queries: dict[str, Query] = {}
        self.judgements: dict[str, dict[str, float]] = {}
        self._empty: dict[Kind, set[str]] = {"memory": set(), "query": set()}

    def add_memory(
        self,
        source_id: object,
        text: object,
        place: AnyPlace,
        metadata: Mapping[str, Any] = NO_METADATA,
        *,
        note_repeat: bool = True,
    ) -> str:
        """Add one memory and return its id; raises DatasetError for a bad id, a bad text, or an id with two texts."""
        return self._add(self.memories, Memory, "memory", source_id, text, place, metadata, note_repeat)

    def add_query(
        self,
        source_id: object,
        text: object,
        place: AnyPlace,
        metadata: Mapping[str, Any] = NO_METADATA,
        *,
        note_repeat: bool = True,
    ) -> str:
        """Add one query and return its id; raises DatasetError as `add_memory` does."""
        return self._add(self.queries, Query, "query", source_id, text, place, metadata, note_repeat)

    def judge(self, query_id: str, memory_id: str, grade: float, place: AnyPlace) -> None:
        """Record a judgement; raises DatasetError for an id that was never added or a grade that is no number."""
        if not math.isfinite(grade):
            raise DatasetError(f"{place}: the score {grade} is not a finite number; give a grade such as 0 or 1.")
        if query_id not in self.queries or memory_id not in self.memories:
            self._judge_absent(query_id, memory_id, place)
            return
        grades = self.judgements.setdefault(query_id, {})
        held = grades.get(memory_id)
        if held is None:
            grades[memory_id] = grade
            return
        rule = "repeated_judgement" if held == grade else "conflicting_grade"
        self.ledger.note(rule, place, f"{query_id} {memory_id} {held:g} {grade:g}")
        grades[memory_id] = max(held, grade)

    def add_memories_of(self, other: DatasetBuilder, place: AnyPlace) -> None:
        """Add the memories of a second source; an id that is already held keeps its first text."""
        self.ledger.absorb(other.ledger, "memories")
        for memory in other.memories.values():
            held = self.memories.setdefault(memory.id, memory)
            if held is not memory and normalise(held.text) != normalise(memory.text):
                self.ledger.note("memory_text_overridden", place, memory.id)

    def build(self, source: object) -> RetrievalDataset:
        """Return the dataset; raises DatasetError, naming `source`, where there is no memory at all."""
        if not self.memories:
            raise DatasetError(f"{source}: there is no memory with a text in it; give data with at least one.")
        dataset = RetrievalDataset(self.name, self.memories, self.queries, self.judgements)
        for identifier, answer in dataset.answer_ids.items():
            if identifier != answer:
                self.ledger.note("equal_memory_text", identifier, f"same text as {answer}")
        for group, answers in sorted(answers_of_ambiguous_texts(dataset).items()):
            self.ledger.note("ambiguous_query_text", group, f"{len(answers)} right answers under one text")
        for identifier in dataset.queries:
            if not dataset.relevant(identifier):
                self.ledger.note("query_without_right_answer", identifier)
        return replace(dataset, ledger=self.ledger.build())

    def _add(
        self,
        rows: dict[str, _Row],
        row_type: type[_Row],
        kind: Kind,
        source_id: object,
        text: object,
        place: AnyPlace,
        metadata: Mapping[str, Any],
        note_repeat: bool,
    ) -> str:
        identifier = identifier_of(source_id, place)
        clean = self._clean(text, kind, place)
        if not clean or clean.isspace():
            self._empty[kind].add(identifier)
            self.ledger.note(f"empty_{kind}_dropped", place, identifier)
            return identifier
        held = rows.get(identifier)
        if held is None:
            if not isinstance(source_id, str):
                metadata = {**metadata, "source_id": source_id}
            rows[identifier] = row_type(identifier, clean, metadata)
        elif held.text != clean and normalise(held.text) != normalise(clean):
            raise DatasetError(
                f"{place}: the {kind} id {identifier!r} stands for two different texts; give each text its own id."
            )
        elif note_repeat:
            self.ledger.note(f"repeated_{kind}_id", place, identifier)
        return identifier

    def _clean(self, text: object, kind: Kind, place: AnyPlace) -> str:
        if not isinstance(text, str):
            raise DatasetError(f"{place}: the {kind}'s text is {json_type(text)}; it must be a string.")
        clean = text
        if not text.isascii():
            if _has_lone_surrogate(text):
                clean = _SURROGATES.sub("\ufffd", text)
                self.ledger.note("lone_surrogate_replaced", place)
            repaired = repair_mojibake(clean)
            if repaired != clean:
                self.ledger.note(f"mojibake_repaired_{kind}", place, repaired)
                clean = repaired
        if len(clean) > OVER_LONG_CHARACTERS:
            self.ledger.note(f"over_long_{kind}", place, f"{len(clean)} characters")
        return clean

    def _judge_absent(self, query_id: str, memory_id: str, place: AnyPlace) -> None:
        if query_id not in self.queries and query_id not in self._empty["query"]:
            raise DatasetError(f"{place}: the query id {query_id!r} is not among the queries; add it or drop the row.")
        if memory_id not in self.memories and memory_id not in self._empty["memory"]:
            raise DatasetError(f"{place}: the memory id {memory_id!r} is not in the corpus; add it or drop the row.")
        self.ledger.note("judgement_of_empty_text_dropped", place, f"{query_id} {memory_id}")


def identifier_of(source_id: object, place: AnyPlace) -> str:
    """Return the id as a string; raises DatasetError unless it is an integer or a string with something in it."""
    if isinstance(source_id, bool) or not isinstance(source_id, (str, int)):
        raise DatasetError(f"{place}: the id is {json_type(source_id)}; it must be a string or an integer.")
    if isinstance(source_id, int):
        return str(source_id)
    if not source_id or source_id.isspace():
        raise DatasetError(f"{place}: the id is empty; give every record an id.")
    if _has_lone_surrogate(source_id):
        raise DatasetError(f"{place}: the id is not valid Unicode; give the record another one.")
    return source_id


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
