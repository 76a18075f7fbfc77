"""Location of a record or value in a file, for messages."""

from __future__ import annotations

from json import JSONDecoder
from typing import NamedTuple, TypeAlias


class SourceLocation(NamedTuple):
    """A file, a line (from 1; 0 if there is none) and a field of the record."""

    file: str
    line: int = 0
    field: str = ""

    def at(self, *steps: str | int) -> SourceLocation:
        """Return the location of a value further inside."""
        inside = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        return SourceLocation(self.file, self.line, f"{self.field}{inside}".removeprefix("."))

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line else ""
        field = f" ({self.field})" if self.field else ""
        return f"{self.file}{line}{field}"


class JsonLocation(NamedTuple):
    """A value inside a JSON document; its line is searched for only when the location is printed."""

    file: str
    text: str
    steps: tuple[str | int, ...] = ()

    def at(self, *steps: str | int) -> JsonLocation:
        """Return the location of a value further inside."""
        return JsonLocation(self.file, self.text, self.steps + steps)

    def __str__(self) -> str:
        field = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in self.steps).removeprefix(".")
        return str(SourceLocation(self.file, line_of(self.text, self.steps), field))


AnyLocation: TypeAlias = SourceLocation | JsonLocation

_DECODER = JSONDecoder()
_SPACE = " \t\n\r"


def line_of(text: str, steps: tuple[str | int, ...]) -> int:
    """Return the line on which the value at `steps` (keys and indices) starts in a valid JSON text.

    If a step is missing, the line is that of the value that should have held it.
    """
    position = _skip(text, 0)
    try:
        for step in steps:
            found = _child(text, position, step)
            if found is None:
                break
            position = found
    except RecursionError:  # nested almost as deep as the parser allows: the line reached so far is returned
        pass
    return text.count("\n", 0, position) + 1


def _child(text: str, position: int, step: str | int) -> int | None:
    is_object = text[position] == "{"
    if not is_object and text[position] != "[":
        return None
    position = _skip(text, position + 1)
    index = 0
    while text[position] not in "]}":
        key: object = index
        if is_object:
            key, position = _DECODER.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)
        if key == step and isinstance(step, str) == is_object:
            return position
        _, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)
        index += 1
    return None


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position
