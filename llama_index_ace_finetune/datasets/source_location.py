"""Where in a file something stands."""

from __future__ import annotations

from json import JSONDecoder
from typing import NamedTuple, TypeAlias


class Place(NamedTuple):
    """A file, a line (1 for the first, 0 where there is none) and a field of the record."""

    file: str
    line: int = 0
    field: str = ""

    def at(self, *steps: str | int) -> Place:
        """Return the place of a value further inside."""
        inside = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        return Place(self.file, self.line, f"{self.field}{inside}".removeprefix("."))

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line else ""
        field = f" ({self.field})" if self.field else ""
        return f"{self.file}{line}{field}"


class JsonPlace(NamedTuple):
    """A value inside a JSON document; its line is looked for only when the place is printed."""

    file: str
    text: str
    steps: tuple[str | int, ...] = ()

    def at(self, *steps: str | int) -> JsonPlace:
        """Return the place of a value further inside."""
        return JsonPlace(self.file, self.text, self.steps + steps)

    def __str__(self) -> str:
        field = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in self.steps).removeprefix(".")
        return str(Place(self.file, line_of(self.text, self.steps), field))


AnyPlace: TypeAlias = Place | JsonPlace

_DECODER = JSONDecoder()
_SPACE = " \t\n\r"


def line_of(text: str, steps: tuple[str | int, ...]) -> int:
    """Return the line on which the value at `steps` (keys and indices) starts in a valid JSON text.

    A step that is not there ends the walk at the value that should have held it.
    """
    position = _skip(text, 0)
    try:
        for step in steps:
            found = _child(text, position, step)
            if found is None:
                break
            position = found
    except RecursionError:  # parsed just below the limit of nesting: the line reached so far has to do
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
