"""Read YAML from untrusted files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from llama_index_ace_finetune.utils.file_errors import Refusal, UnusableFileError
from llama_index_ace_finetune.utils.open_file import read_bytes
from llama_index_ace_finetune.utils.read_json import MAX_DEPTH, MAX_DIGITS

MAX_BYTES: Final = 256 * 2**10
MAX_VALUES: Final = 50_000
"""Values in a file; every use of an alias counts."""

_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


# PyYAML does not wrap conversion errors: `!!int ""` is an IndexError, `!!timestamp x` an AttributeError.
_CONVERSIONS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class YamlContent:
    """The value of a YAML file, and its node tree, which has the line numbers."""

    value: Any
    tree: yaml.Node | None


def read_yaml_file(path: Path, refusal: Refusal) -> YamlContent:
    """Return the content of a YAML or JSON file, with the types of plain YAML only.

    The file may be a pipe, as of a shell's process substitution; it is opened and read once.

    Raises:
        AceFinetuneError: the refusal's own class.
    """
    try:
        content = read_bytes(path, limit=MAX_BYTES, pipes=True)
        try:
            return _content(content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UnusableFileError("cannot be read (it is not UTF-8)") from error
        except (yaml.YAMLError, *_CONVERSIONS) as error:
            raise UnusableFileError(f"cannot be read ({' '.join(str(error).split())})") from error
    except UnusableFileError as error:
        raise refusal.because(path, error) from error


def read_front_matter(path: Path) -> dict[str, Any]:
    """Return the YAML front matter of a Markdown file; empty if there is none, or none that can be read."""
    try:
        text = read_bytes(path, limit=MAX_BYTES).decode("utf-8-sig")
        found = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
        value = _content(found[1]).value if found else None
    except (UnusableFileError, OSError, yaml.YAMLError, *_CONVERSIONS):
        return {}
    return value if isinstance(value, dict) else {}


def _content(text: str) -> YamlContent:
    _check_size(text)
    loader = _Loader(text)
    try:
        tree = loader.get_single_node()
        value = None if tree is None else loader.construct_document(tree)
    finally:
        loader.dispose()
    _check_integers(value)
    return YamlContent(value, tree)


def _check_size(text: str) -> None:
    """Refuse deep nesting and aliases that would expand exponentially, before anything is built."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the count of values where it began
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias {event.anchor!r:.80} does not name a complete earlier value")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, count))
            elif event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = open_nodes.pop()
            if anchor:
                sizes[anchor] = count - start + 1
        if len(open_nodes) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if count > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES:,} values")


def _check_integers(value: Any) -> None:
    """Refuse integers too large for float and for printing (YAML has them in bases 2, 8, 16 and 60 too)."""
    if isinstance(value, dict):
        for pair in value.items():
            _check_integers(pair)
    elif isinstance(value, (list, tuple, set)):
        for part in value:
            _check_integers(part)
    elif isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise ValueError(f"it holds an integer of more than {MAX_DIGITS} digits")
