"""The ACE test suite: memories with the queries generated for each."""

from __future__ import annotations

from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder, identifier_of
from llama_index_ace_finetune.datasets.readers.json_document import (
    JsonDocument,
    expect_field,
    expect_list,
    expect_object,
)
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.source_location import AnyLocation
from llama_index_ace_finetune.errors import DatasetError


def is_ace_suite(document: JsonDocument) -> bool:
    """Return whether the document is an ACE test suite."""
    return isinstance(document.value, dict) and "test_cases" in document.value


def _can_read(document: JsonDocument, options: ReadOptions) -> bool:
    return is_ace_suite(document)


def read(document: JsonDocument, builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add the memories, queries and judgements of `{"test_cases": [{memory_id, content, generated_queries}]}`.

    Every generated query becomes the query `"{memory_id}-{position}"` with the memory's `category`; its own category
    becomes `query_category`. `original_queries` stay metadata, as they may not have been checked. Raises DatasetError.
    """
    root = document.root
    suite = expect_object(document.value, root, "the suite")
    cases = expect_list(expect_field(suite, "test_cases", root), root.at("test_cases"), "test_cases")
    seen: set[str] = set()
    for index, value in enumerate(cases):
        location = builder.location(root.at("test_cases", index))
        with builder.row(location):
            case = expect_object(value, location, "the test case")
            source_id = expect_field(case, "memory_id", location)
            identifier = identifier_of(source_id, location.at("memory_id"))
            if identifier in seen:
                raise DatasetError(f"{location}: the memory_id {identifier!r} has two test cases; make one of them.")
            seen.add(identifier)
            _read_case(source_id, case, location, builder)


def _read_case(source_id: object, case: dict[str, Any], location: AnyLocation, builder: DatasetBuilder) -> None:
    metadata = {k: v for k, v in case.items() if k not in ("memory_id", "content", "generated_queries")}
    metadata["source_id"] = source_id
    content = expect_field(case, "content", location)
    memory_id = builder.add_memory(source_id, content, location.at("content"), metadata)
    entries_location = location.at("generated_queries")
    entries = expect_list(case.get("generated_queries") or [], entries_location, "generated_queries")
    for position, value in enumerate(entries):
        at = entries_location.at(position)
        with builder.row(at):
            entry = expect_object(value, at, "the generated query")
            about = {k: v for k, v in entry.items() if k not in ("query", "category")}
            if "category" in entry:
                about["query_category"] = entry["category"]
            if "category" in case:
                about["category"] = case["category"]
            text = expect_field(entry, "query", at)
            query_id = builder.add_query(f"{memory_id}-{position}", text, at.at("query"), about)
            builder.judge(query_id, memory_id, 1.0, at)


READER = Reader(
    name="ace_suite",
    signature="an ACE suite has 'test_cases'",
    sources=(JsonDocument,),
    can_read=_can_read,
    read=read,
)
