"""The texts of one cell: a string, a list of them, or objects that hold a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_index_ace_finetune.datasets.readers.column_names import PASSAGE, TEXT, first_of
from llama_index_ace_finetune.datasets.source_location import AnyLocation
from llama_index_ace_finetune.datasets.text_files import json_type
from llama_index_ace_finetune.errors import DatasetError

_IDS = ("id", "_id", "doc_id", "docid", "passage_id", "pid", "memory_id", "node_id")


@dataclass(frozen=True)
class Passage:
    """A text and its id; either may be missing in the source."""

    id: Any
    text: str | None


def passages(value: Any, column: str, location: AnyLocation) -> list[Passage]:
    """Return the texts of a cell; raises DatasetError for anything else."""
    found: list[Passage] = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, Mapping):
            found += _of_object(one, column, location)
        elif isinstance(one, str):
            found.append(Passage(None, one))
        else:
            raise DatasetError(
                f"{location}: the text in {column!r} is {json_type(one)}; it must be a string or a list."
            )
    return found


def _of_object(value: Mapping[str, Any], column: str, location: AnyLocation) -> list[Passage]:
    key = first_of((*TEXT, *PASSAGE), value)
    text = None if key is None else value[key]
    if isinstance(text, list):  # SQuAD: {"text": [...], "answer_start": [...]}
        return passages(text, column, location)
    if not isinstance(text, str):
        raise DatasetError(f"{location}: an object in {column!r} has no text; give it a field 'text'.")
    title, identifier = value.get("title"), first_of(_IDS, value)
    whole = f"{title} {text}".strip() if isinstance(title, str) and title else text
    return [Passage(None if identifier is None else value[identifier], whole)]
