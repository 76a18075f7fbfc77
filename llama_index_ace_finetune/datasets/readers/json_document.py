"""A parsed JSON file that knows where its values stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.source_location import AnyPlace, JsonPlace, Place
from llama_index_ace_finetune.datasets.text_files import json_type, parse_json, read_text
from llama_index_ace_finetune.errors import DatasetError


@dataclass(frozen=True)
class JsonDocument:
    """The value of a whole JSON file, and its text for finding lines."""

    path: Path
    text: str
    value: Any

    @classmethod
    def read(cls, path: Path) -> JsonDocument:
        """Read a JSON file, gzipped or not; raises DatasetError."""
        text = read_text(path)
        if not text.strip():
            raise DatasetError(f"{path}: the file is empty; give a file with data in it.")
        return cls(path, text, parse_json(text, Place(str(path))))

    @property
    def root(self) -> JsonPlace:
        """The place of the whole value."""
        return JsonPlace(str(self.path), self.text)


def expect_object(value: Any, place: AnyPlace, what: str) -> dict[str, Any]:
    """Return `value` if it is a JSON object; raises DatasetError."""
    if not isinstance(value, dict):
        raise DatasetError(f"{place}: {what} is {json_type(value)}; it must be an object.")
    return value


def expect_list(value: Any, place: AnyPlace, what: str) -> list[Any]:
    """Return `value` if it is a JSON list; raises DatasetError."""
    if not isinstance(value, list):
        raise DatasetError(f"{place}: {what} is {json_type(value)}; it must be a list.")
    return value


def expect_field(record: dict[str, Any], key: str, place: AnyPlace) -> Any:
    """Return `record[key]`; raises DatasetError where it is missing."""
    if key not in record:
        raise DatasetError(f"{place}: the field {key!r} is missing; add it.")
    return record[key]
