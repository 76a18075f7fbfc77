"""DatasetBuilder: collects the rows of a reader, cleans them and logs every change."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, TypeAlias, TypeVar

from llama_index_ace_finetune.datasets.id_texts import are_ids, share_words
from llama_index_ace_finetune.datasets.ledger import LedgerBuilder
from llama_index_ace_finetune.datasets.own_documents import own_documents
from llama_index_ace_finetune.datasets.source_location import AnyLocation, JsonLocation, SourceLocation
from llama_index_ace_finetune.datasets.text import normalise, repair_mojibake
from llama_index_ace_finetune.datasets.text_files import json_type
from llama_index_ace_finetune.datasets.types import (
    NO_METADATA,
    Memory,
    Query,
    RetrievalDataset,
    answers_of_ambiguous_texts,
)
from llama_index_ace_finetune.errors import DatasetError

OVER_LONG_CHARACTERS = 8192
"""Longer texts are kept and counted; encoders truncate them long before."""

_SURROGATES = re.compile("[\ud800-\udfff]")

Kind: TypeAlias = Literal["memory", "query"]
_Row = TypeVar("_Row", Memory, Query)


class DatasetBuilder:
    """Builds a RetrievalDataset row by row; every change is noted in the ledger.

    Rules noted while rows come in, K being memory or query: `mojibake_repaired_K`, `lone_surrogate_replaced`,
    `empty_K_dropped`, `over_long_K`, `repeated_K_id` (same text), `repeated_judgement`, `conflicting_grade` (the higher
    is kept), `judgement_of_empty_text_dropped`, `memory_text_overridden` (the first source wins),
    `memory_text_of_node_used` and `memory_joined_to_node` (nodes win), `row_left_out`. Rules noted by `build`:
    `judgement_of_unknown_id_left_out`, `own_document_left_out`, `equal_memory_text`,
    `ambiguous_query_text`, `query_without_positive`.
    """

    def __init__(self, name: str, format: str) -> None:  # noqa: A002 - the field's own name
        self.name = name
        self.ledger = LedgerBuilder(format)
        self.memories: dict[str, Memory] = {}
        self.queries: dict[str, Query] = {}
        self.judgements: dict[str, dict[str, float]] = {}
        self.node_contents: dict[str, str] = {}
        self._empty: dict[Kind, set[str]] = {"memory": set(), "query": set()}
        self._waiting: list[tuple[str, str, float, AnyLocation]] = []
        self.left_out = 0
        self.first_error: DatasetError | None = None

    @contextmanager
    def row(self, location: AnyLocation) -> Iterator[None]:
        """Leave out a row that raises DatasetError, and count it as `row_left_out`."""
        try:
            yield
        except DatasetError as error:
            self.leave_out(error, location)

    def leave_out(self, error: DatasetError, location: AnyLocation) -> None:
        """Count a row that cannot be used; if none can, `build` raises the first of these errors."""
        self.left_out += 1
        self.first_error = self.first_error or error
        reason = str(error)
        self.ledger.note("row_left_out", location, reason.removeprefix(f"{location}: ") if self.left_out <= 20 else "")

    def location(self, location: JsonLocation) -> AnyLocation:
        """Return the location of a row, without its line once many rows were left out: counting lines is slow."""
        if self.left_out <= LedgerBuilder.EXAMPLES_PER_RULE:
            return location
        return SourceLocation(location.file, 0, "".join(f"[{step}]" for step in location.steps))

    def add_memory(
        self,
        source_id: object,
        text: object,
        location: AnyLocation,
        metadata: Mapping[str, Any] = NO_METADATA,
        *,
        note_repeat: bool = True,
    ) -> str:
        """Add one memory and return its id; raises DatasetError for a bad id, a bad text, or an id with two texts."""
        return self._add(self.memories, Memory, "memory", source_id, text, location, metadata, note_repeat)

    def add_query(
        self,
        source_id: object,
        text: object,
        location: AnyLocation,
        metadata: Mapping[str, Any] = NO_METADATA,
        *,
        note_repeat: bool = True,
    ) -> str:
        """Add one query and return its id; raises DatasetError as `add_memory` does."""
        return self._add(self.queries, Query, "query", source_id, text, location, metadata, note_repeat)

    def judge(self, query_id: str, memory_id: str, grade: float, location: AnyLocation) -> None:
        """Record a judgement; `build` leaves out those with an id that no source adds.

        Raises DatasetError for a grade that is NaN or infinite.
        """
        require_finite(grade, location)
        if query_id not in self.queries or memory_id not in self.memories:
            self._waiting.append((query_id, memory_id, grade, location))
            return
        grades = self.judgements.setdefault(query_id, {})
        held = grades.get(memory_id)
        if held is None:
            grades[memory_id] = grade
            return
        rule = "repeated_judgement" if held == grade else "conflicting_grade"
        self.ledger.note(rule, location, f"{query_id} {memory_id} {held:g} {grade:g}")
        grades[memory_id] = max(held, grade)

    @staticmethod
    def id_of(source_id: object, location: AnyLocation) -> str:
        """Return the id of a memory of another source as a string; raises DatasetError for a bad one."""
        return identifier_of(source_id, location)

    def add_memories_of(self, other: DatasetBuilder, location: AnyLocation) -> None:
        """Add the memories of a second source; an id that is already known keeps its first text.

        If the second source is LlamaIndex nodes, their texts are what is served, so they are used instead; and a
        memory of another id whose text is the content of one node, without metadata, becomes that node.
        A memory without metadata, as in a row of pairs, takes that of the second source.

        Raises DatasetError if the second source has none.
        """
        if not other.memories:
            raise other.first_error or DatasetError(f"{location}: it has no memory with a text; give another.")
        self.ledger.absorb(other.ledger, "memories")
        self._use_nodes(other.node_contents, other.memories, location)
        for memory in other.memories.values():
            held = self.memories.setdefault(memory.id, memory)
            if held is memory:
                continue
            if normalise(held.text) == normalise(memory.text):
                if not held.metadata:
                    self.memories[memory.id] = replace(held, metadata=memory.metadata)
            elif memory.id in other.node_contents:
                self.memories[memory.id] = replace(held, text=memory.text)
                self.ledger.note("memory_text_of_node_used", location, memory.id)
            else:
                self.ledger.note("memory_text_overridden", location, memory.id)

    def _use_nodes(self, contents: Mapping[str, str], texts: Mapping[str, Memory], location: AnyLocation) -> None:
        """Replace memories that are the content of exactly one node by that node's id."""
        nodes: dict[str, list[str]] = {}
        for identifier, content in contents.items():
            nodes.setdefault(normalise(content), []).append(identifier)
        found: dict[str, str] = {}
        for memory in self.memories.values():
            same = nodes.get(normalise(memory.text), [])
            if memory.id not in contents and len(same) == 1:
                found[memory.id] = same[0]
        for identifier, node_id in found.items():
            self.ledger.note("memory_joined_to_node", location, f"{identifier} is the node {node_id}")
            memory = self.memories.pop(identifier)
            self.memories.setdefault(node_id, replace(memory, id=node_id, text=texts[node_id].text))
        for grades in self.judgements.values():
            for identifier in [identifier for identifier in grades if identifier in found]:
                grade = grades.pop(identifier)
                grades[found[identifier]] = max(grade, grades.get(found[identifier], grade))

    def build(self, source: object) -> RetrievalDataset:
        """Return the dataset.

        Raises DatasetError, naming `source`, if there is no memory, or if no judgement names a query and a memory that
        exist.
        """
        if not self.memories and self.first_error is not None:
            raise self.first_error
        self._judge_waiting(source)
        if not self.memories:
            raise DatasetError(f"{source}: it has no memory with a text; give data with at least one.")
        self._require_texts(source)
        dataset = self._without_own_documents(RetrievalDataset(self.name, self.memories, self.queries, self.judgements))
        for identifier, answer in dataset.answer_ids.items():
            if identifier != answer:
                self.ledger.note("equal_memory_text", identifier, f"same text as {answer}")
        for group, answers in sorted(answers_of_ambiguous_texts(dataset).items()):
            self.ledger.note("ambiguous_query_text", group, f"{len(answers)} relevant answers under one text")
        for identifier in dataset.queries:
            if not dataset.relevant(identifier):
                self.ledger.note("query_without_positive", identifier)
        return replace(dataset, ledger=self.ledger.build())

    def _judge_waiting(self, source: object) -> None:
        """Record the judgements that came before their texts; count those whose texts are missing."""
        waiting, self._waiting = self._waiting, []
        for query_id, memory_id, grade, location in waiting:
            self.judge(query_id, memory_id, grade, location)
        for query_id, memory_id, _, location in self._waiting:
            no_query, no_memory = query_id not in self.queries, memory_id not in self.memories
            is_empty = query_id in self._empty["query"] or memory_id in self._empty["memory"]
            if is_empty:
                self.ledger.note("judgement_of_empty_text_dropped", location, f"{query_id} {memory_id}")
                continue
            missing = [f"query {query_id!r:.60}"] * no_query + [f"memory {memory_id!r:.60}"] * no_memory
            self.ledger.note("judgement_of_unknown_id_left_out", location, f"there is no {' and no '.join(missing)}")
        unknown = self.ledger.count("judgement_of_unknown_id_left_out")
        if unknown and not self.judgements:
            _, _, _, location = self._waiting[0]
            first = self.ledger.first("judgement_of_unknown_id_left_out")
            raise DatasetError(
                f"{source}: none of {unknown} judgement(s) names a query and a memory that exist (the first, "
                f"{location}: {first}{self._read_as_ids()}); give the texts of these ids, such as with "
                f"--memories{self._nearby()}."
            )

    def named_memories(self) -> set[str]:
        """Return the ids of memories that judgements name without a text so far."""
        return {memory_id for _, memory_id, _, _ in self._waiting}

    def _nearby(self) -> str:
        file = self.ledger.first_location("memories_not_used")
        return f" {file}" if file else ""

    def _read_as_ids(self) -> str:
        note = self.ledger.first("text_column_holds_ids")
        return f"; the column {note}" if note else ""

    def _require_texts(self, source: object) -> None:
        """Raise DatasetError if the memories' texts are ids, which share no word with any query."""
        texts = [memory.text for memory in self.memories.values()]
        if not self.judgements or not are_ids(texts):
            return
        pairs = (
            (self.queries[query_id].text, self.memories[memory_id].text)
            for query_id, grades in self.judgements.items()
            for memory_id, grade in grades.items()
            if grade > 0
        )
        if not share_words(pairs):
            raise DatasetError(
                f"{source}: the texts of the memories are ids (such as {texts[0]!r:.60}) and share no word with any "
                "query; give the column of the texts with --columns text=NAME, or the texts with --memories."
            )

    def _without_own_documents(self, dataset: RetrievalDataset) -> RetrievalDataset:
        """If every query is a document under the same id, note it and drop the judgements of own documents."""
        own = own_documents(dataset)
        if not own:
            return dataset
        first = min(own)
        self.ledger.note(
            "own_document_left_out",
            self.name,
            f"all {len(own)} queries are memories under the same ids (such as {first!r:.60}); a query's own memory is "
            "left out of its ranking",
        )
        judgements: dict[str, dict[str, float]] = {}
        for query_id, grades in dataset.judgements.items():
            same = dataset.answer_ids[own[query_id]]
            judgements[query_id] = {m: grade for m, grade in grades.items() if dataset.answer_ids[m] != same}
            if len(judgements[query_id]) < len(grades):
                self.ledger.note("judgement_of_own_document_dropped", query_id)
        return replace(dataset, judgements=judgements, own_documents=own)

    def _add(
        self,
        rows: dict[str, _Row],
        row_type: type[_Row],
        kind: Kind,
        source_id: object,
        text: object,
        location: AnyLocation,
        metadata: Mapping[str, Any],
        note_repeat: bool,
    ) -> str:
        identifier = identifier_of(source_id, location)
        clean = self._clean(text, kind, location)
        if not clean or clean.isspace():
            self._empty[kind].add(identifier)
            self.ledger.note(f"empty_{kind}_dropped", location, identifier)
            return identifier
        held = rows.get(identifier)
        if held is None:
            if not isinstance(source_id, str):
                metadata = {**metadata, "source_id": source_id}
            rows[identifier] = row_type(identifier, clean, metadata)
        elif held.text != clean and normalise(held.text) != normalise(clean):
            raise DatasetError(
                f"{location}: the {kind} id {identifier!r} has two different texts; give each text its own id."
            )
        elif note_repeat:
            self.ledger.note(f"repeated_{kind}_id", location, identifier)
        return identifier

    def _clean(self, text: object, kind: Kind, location: AnyLocation) -> str:
        if not isinstance(text, str):
            raise DatasetError(f"{location}: the {kind}'s text is {json_type(text)}; it must be a string.")
        clean = text
        if not text.isascii():
            if _has_lone_surrogate(text):
                clean = _SURROGATES.sub("\ufffd", text)
                self.ledger.note("lone_surrogate_replaced", location)
            repaired = repair_mojibake(clean)
            if repaired != clean:
                self.ledger.note(f"mojibake_repaired_{kind}", location, repaired)
                clean = repaired
        if len(clean) > OVER_LONG_CHARACTERS:
            self.ledger.note(f"over_long_{kind}", location, f"{len(clean)} characters")
        return clean


def identifier_of(source_id: object, location: AnyLocation) -> str:
    """Return the id as a string; raises DatasetError unless it is an integer or a string that is not blank."""
    if isinstance(source_id, bool) or not isinstance(source_id, (str, int)):
        raise DatasetError(f"{location}: the id is {json_type(source_id)}; it must be a string or an integer.")
    if isinstance(source_id, int):
        return str(source_id)
    if not source_id or source_id.isspace():
        raise DatasetError(f"{location}: the id is empty; give every record an id.")
    if _has_lone_surrogate(source_id):
        raise DatasetError(f"{location}: the id is not valid Unicode; give the record another one.")
    return source_id


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def require_finite(grade: float, location: AnyLocation) -> None:
    """Raise DatasetError for a grade that is NaN or infinite."""
    if not math.isfinite(grade):
        raise DatasetError(f"{location}: the score {grade} is not a finite number; give a grade such as 0 or 1.")
