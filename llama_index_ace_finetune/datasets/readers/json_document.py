"""JsonDocument: a parsed JSON file with the locations of its values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.source_location import AnyLocation, JsonLocation, SourceLocation
from llama_index_ace_finetune.datasets.text_files import empty_file, json_type, parse_json, read_text
from llama_index_ace_finetune.errors import DatasetError


@dataclass(frozen=True)
class JsonDocument:
    """The value of a JSON file, and its text, from which line numbers are computed."""

    path: Path
    text: str
    value: Any

    @classmethod
    def read(cls, path: Path) -> JsonDocument:
        """Read a JSON file, gzipped or not; raises DatasetError."""
        text = read_text(path)
        if not text.strip():
            raise empty_file(path)
        return cls(path, text, parse_json(text, SourceLocation(str(path))))

    @property
    def root(self) -> JsonLocation:
        """The location of the whole value."""
        return JsonLocation(str(self.path), self.text)


def expect_object(value: Any, location: AnyLocation, what: str) -> dict[str, Any]:
    """Return `value` if it is a JSON object; raises DatasetError."""
    if not isinstance(value, dict):
        raise DatasetError(f"{location}: {what} is {json_type(value)}; it must be an object.")
    return value


def expect_list(value: Any, location: AnyLocation, what: str) -> list[Any]:
    """Return `value` if it is a JSON list; raises DatasetError."""
    if not isinstance(value, list):
        raise DatasetError(f"{location}: {what} is {json_type(value)}; it must be a list.")
    return value


def expect_field(record: dict[str, Any], key: str, location: AnyLocation) -> Any:
    """Return `record[key]`; raises DatasetError if it is missing."""
    if key not in record:
        raise DatasetError(f"{location}: the field {key!r} is missing; add it.")
    return record[key]
