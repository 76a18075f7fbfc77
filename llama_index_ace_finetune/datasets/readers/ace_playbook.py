"""ACE playbooks and skillbooks: memories without queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers.inactive import is_inactive
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument, expect_object
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.source_location import AnyLocation, JsonLocation
from llama_index_ace_finetune.datasets.text_files import json_type
from llama_index_ace_finetune.errors import DatasetError

_CONTAINERS = ("bullets", "skills")


def _can_read(document: JsonDocument, options: ReadOptions) -> bool:
    """Return whether the document is a playbook (`bullets`, or the older `sections`) or a skillbook (`skills`)."""
    return isinstance(document.value, dict) and any(key in document.value for key in (*_CONTAINERS, "sections"))


def read(document: JsonDocument, builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add the active entries of a playbook, a skillbook, or a skillbook of schema version 2.

    The text is `embedding_text` if there is one, else `content`, else issue, insight and "Keywords: a, b" joined by
    blank lines, as the skillbook embeds them. Entries marked archived, deleted, invalid or inactive are counted as
    `inactive_memory_skipped`, entries that cannot be used as `row_left_out`. Raises DatasetError.
    """
    root = document.root
    value = expect_object(document.value, root, "the playbook")
    for key in _CONTAINERS:
        for name, entry, at in _entries(value.get(key), root.at(key)):
            location = builder.location(at)
            with builder.row(location):
                _read_entry(name, expect_object(entry, location, "the entry"), location, builder)
    sections = value.get("sections")
    if sections is not None:
        for section, listed in expect_object(sections, root.at("sections"), "sections").items():
            for name, entry, at in _entries(listed, root.at("sections", section)):
                if isinstance(entry, str):  # the id of an entry read above
                    continue
                location = builder.location(at)
                with builder.row(location):
                    entry = {"section": section, **expect_object(entry, location, "the entry")}
                    _read_entry(name, entry, location, builder)


def _entries(listed: Any, location: JsonLocation) -> Iterator[tuple[str | None, Any, JsonLocation]]:
    """Yield (key or None, entry, place) of an object keyed by id or of a list."""
    if isinstance(listed, dict):
        yield from ((name, entry, location.at(name)) for name, entry in listed.items())
    elif isinstance(listed, list):
        yield from ((None, entry, location.at(index)) for index, entry in enumerate(listed))
    elif listed is not None:
        raise DatasetError(f"{location}: the entries are {json_type(listed)}; they must be an object or a list.")


def _read_entry(name: str | None, entry: dict[str, Any], location: AnyLocation, builder: DatasetBuilder) -> None:
    identifier = entry.get("id", name)
    if identifier is None:
        raise DatasetError(f"{location}: the entry has no 'id'; add one.")
    if is_inactive(entry):
        builder.ledger.note("inactive_memory_skipped", location, str(identifier))
        return
    if entry.get("embedding") is not None:
        builder.ledger.note("stored_embedding_ignored", location, str(identifier))
    text, used = _text(entry, location)
    metadata = {k: v for k, v in entry.items() if k not in ("id", "embedding", used)}
    builder.add_memory(identifier, text, location, metadata)


def _text(entry: dict[str, Any], location: AnyLocation) -> tuple[Any, str]:
    """Return the text and its field, "" for a text composed of several fields."""
    for key in ("embedding_text", "content"):
        if entry.get(key):
            return entry[key], key
    if "issue" in entry or "insight" in entry:
        return _schema_2_text(entry, location), ""
    if "content" not in entry:
        raise DatasetError(f"{location}: the entry has no 'content' and no 'issue' or 'insight'; add its text.")
    return entry["content"], "content"


def _schema_2_text(entry: dict[str, Any], location: AnyLocation) -> str:
    parts = []
    for key in ("issue", "insight"):
        part = entry.get(key)
        if part is not None and not isinstance(part, str):
            raise DatasetError(f"{location.at(key)}: {key} is {json_type(part)}; it must be a string.")
        parts.append(part or "")
    keywords = entry.get("keywords") or []
    if not isinstance(keywords, list) or not all(isinstance(word, str) for word in keywords):
        raise DatasetError(f"{location.at('keywords')}: keywords must be a list of strings; correct it.")
    parts.append(f"Keywords: {', '.join(keywords)}" if keywords else "")
    return "\n\n".join(part for part in parts if part)


READER = Reader(
    name="ace_playbook",
    signature="a playbook has 'bullets' or 'sections', a skillbook 'skills'",
    sources=(JsonDocument,),
    can_read=_can_read,
    read=read,
)
