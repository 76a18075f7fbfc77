"""The YAML file of a run: read, validated, and written with a comment on every setting."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError, quoted
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.utils.atomic import write_text
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.new_folder import require_writable
from llama_index_ace_finetune.utils.old_settings import MINING_NAMES, current_mining, current_training
from llama_index_ace_finetune.utils.read_yaml import read_yaml_file

_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def coerce(value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint`; lists become tuples or sets, whole numbers become numbers.

    Args:
        value: what YAML or an option gives.
        hint: int, float, bool, str, Path, None, a Literal, a union, tuple[X, ...] or frozenset[X].

    Raises:
        TypeError: if it is of another type; the message is what it must be.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in inner:
            try:
                return coerce(value, option)
            except TypeError:
                continue
    elif origin is Literal and value in inner:
        return value
    elif origin in (tuple, frozenset) and isinstance(value, (list, tuple, set, frozenset)):
        return origin(coerce(one, inner[0]) for one in value)
    elif hint is type(None) and value is None:
        return None
    elif hint in _PLAIN and not isinstance(value, bool):
        if hint is float and isinstance(value, (int, float, str)):
            return _number(value)
        if isinstance(value, (str, Path)) if hint is Path else isinstance(value, hint):
            return hint(value)
    elif hint is bool and isinstance(value, bool):
        return value
    raise TypeError(describe_type(hint))


def describe_type(hint: Any) -> str:
    """Return in words what a setting of the type `hint` must be."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        # The choices of several Literals are one list: "auto, linear, queries or full".
        choices = [choice for option in inner if get_origin(option) is Literal for choice in get_args(option)]
        merged = (Literal[tuple(choices)] if get_origin(option) is Literal else option for option in inner)
        return " or ".join(dict.fromkeys(describe_type(option) for option in merged))
    if origin is Literal:
        *others, last = inner
        return f"{', '.join(others)} or {last}" if others else str(last)
    if origin in (tuple, frozenset):
        return f"a list in brackets, each of it {describe_type(inner[0])}"
    return "null" if hint is type(None) else _PLAIN[hint]


def _number(value: int | float | str) -> float:
    # YAML reads 5e-5 as a text, since it has no point.
    try:
        return float(value)
    except ValueError as error:
        raise TypeError(_PLAIN[float]) from error


_SECTIONS: Mapping[str, type] = {"split": SplitSettings, "mining": MiningSettings, "training": TrainingConfig}
_NOT_IN_FILES = frozenset({"resume", "force", "command", "output_dir", "llm"})
_SEED = "random seed of all stages; a section may set another one."
_WIDTH = 100

logger = logging.getLogger(__name__)

Lines = dict[tuple[str, ...], int]


def run_settings(
    config: Path | None, given: Mapping[str, Any], *, resume: bool = False, force: bool = False, command: str = ""
) -> RunSettings:
    """Return the settings of a run: given settings override those of the file, and these the defaults.

    Args:
        config: a YAML file, as `config_text` writes it; paths in it are relative to the working folder.
        given: settings that override the file, nested like it; None means null.
        resume: of `RunSettings`.
        force: likewise.
        command: likewise.

    Raises:
        AceFinetuneError: if the file cannot be read, a setting is unknown, of a wrong type or out of range, or data
            or out are missing.
    """
    content, lines = _read(config) if config else ({}, {})
    where = f"The configuration {str(config)!r}" if config else "The command"
    content = _renamed(content, where)
    content = _checked(content, lines, where)
    if config:
        try:
            _built(content)  # without the options first, so that the error names the file
        except AceFinetuneError as error:
            raise AceFinetuneError(f"{where} cannot be used: {error}") from error
    given = _checked(given, {}, "The command")
    settings = _built({**content, **given, **{name: {**content[name], **given[name]} for name in _SECTIONS}})
    settings.setdefault("data", None)
    only_memories = settings.get("synthesize") and settings.get("memories")
    for name in ("out",) if only_memories else ("data", "out"):
        if settings.get(name) is None:
            raise AceFinetuneError(f"{where} does not say {name}; give it with --{name}, or in a file with --config.")
    return RunSettings(**settings, resume=resume, force=force, command=command)


def config_text(settings: RunSettings | None = None, *, data: str = "my_suite.json", out: str = "my-run") -> str:
    """Return the YAML of a run with a comment on every setting; without `settings`, of the defaults for `data`."""
    settings = settings or RunSettings(data=Path(data), out=Path(out))
    values, seeds = settings.to_dict(), set(settings.seeds().values())
    lines = ["# A run: `ace-finetune run --config FILE`. Options on the command line override this file.", ""]
    lines += _entries(RunSettings, {name: value for name, value in values.items() if name not in _SECTIONS})
    if len(seeds) == 1:
        lines += _entry("seed", seeds.pop(), _SEED)
        for name in _SECTIONS:
            del values[name]["seed"]
    for name, section in _SECTIONS.items():
        entries = _entries(section, values[name])
        lines += ["", f"{name}:", *textwrap.indent("\n".join(entries), "  ").split("\n")]
    return "\n".join(lines) + "\n"


def write_config(path: str | Path, *, data: str = "my_suite.json", run: str = "my-run", force: bool = False) -> None:
    """Write a YAML file with the defaults of a run over `data` into the folder `run`, with a comment on each.

    Raises:
        OutputExistsError: if there is such a file and `force` is off.
    """
    path = Path(path)
    if path.exists() and not force:
        raise OutputExistsError(f"{str(path)!r} is there already; give another --out, or replace it with --force.")
    require_writable(path)
    write_text(path, config_text(data=data, out=run))


def _renamed(content: dict[str, Any], where: str) -> dict[str, Any]:
    """Return settings with the names and margins of this version; if any were of version 0.1.0, log a warning."""
    mining, training = content.get("mining"), content.get("training")
    sections = {name: section for name, section in content.items() if isinstance(section, dict)}
    old = [f"mining.{name}" for name in MINING_NAMES if name in sections.get("mining", {})]
    old += ["negatives"] if "negatives" in content else []
    if not old:
        return content
    new = [f"mining.{name}" for name in MINING_NAMES.values() if name in sections.get("mining", {})]
    new += ["num_negatives"] if "num_negatives" in content else []
    if new:
        raise AceFinetuneError(
            f"{where} mixes a name of version 0.1.0 ({old[0]}) with one of today ({new[0]}), so its margins could mean "
            "either; use the names that `ace-finetune init` writes."
        )
    logger.warning(
        "%s names settings as version 0.1.0 did (%s), so its relative_margin and suspected_margin are read as they "
        "were meant then: 0.95 as 0.05 below the positive's score",
        where,
        ", ".join(old),
    )
    renamed = {("num_negatives" if name == "negatives" else name): value for name, value in content.items()}
    if isinstance(mining, dict):
        renamed["mining"] = current_mining(mining)
    if isinstance(training, dict):
        renamed["training"] = current_training(training)
    return renamed


def _fields(cls: type) -> dict[str, Any]:
    """Names and types of the settings that a file may hold."""
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.name not in _NOT_IN_FILES]
    # In Python, data and memories may be objects too.
    hints |= {"data": Path | None, "memories": str | None} if cls is RunSettings else {}
    return {name: hints[name] for name in names} | ({"seed": int} if cls is RunSettings else {})


def _read(path: Path) -> tuple[dict[str, Any], Lines]:
    read = read_yaml_file(path, Refusal("The configuration", "correct the file"))
    content = read.value
    if not isinstance(content, dict):
        raise AceFinetuneError(
            f"The configuration {str(path)!r} is not a YAML mapping; write one with `ace-finetune init`."
        )
    lines: Lines = {}
    for name, line in _places(read.tree):
        if name in lines:
            raise AceFinetuneError(
                f"The configuration {str(path)!r} has {'.'.join(name)} on line {lines[name]} and on line {line}; "
                "keep one of them."
            )
        lines[name] = line
    return content, lines


def _places(node: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = (*above, str(key.value))
            yield name, key.start_mark.line + 1
            yield from _places(value, name)


def _checked(content: Mapping[str, Any], lines: Lines, where: str) -> dict[str, Any]:
    """Return the content with every value in its setting's type, and every section there."""
    checked: dict[str, Any] = {}
    for name in (*content, *(name for name in _SECTIONS if name not in content)):
        section = _SECTIONS.get(str(name))
        value = content.get(name)
        if section is None:
            checked[name] = _value(RunSettings, (name,), value, lines, where)
            continue
        if value is not None and not isinstance(value, Mapping):
            raise AceFinetuneError(f"{_at(where, (name,), lines)}: {name} holds no settings; indent them below it.")
        checked[name] = {key: _value(section, (name, key), one, lines, where) for key, one in (value or {}).items()}
    return checked


def _value(cls: type, name: tuple[Any, ...], value: Any, lines: Lines, where: str) -> Any:
    key, place, fields = str(name[-1]), _at(where, name, lines), _fields(cls)
    if key not in fields:
        inside = f" in {name[0]}" if len(name) > 1 else ""
        raise AceFinetuneError(f"{place}: there is no setting {quoted(key)}{inside}; {_remedy(key, fields, cls)}.")
    try:
        return coerce(value, fields[key])
    except TypeError as error:
        raise AceFinetuneError(
            f"{place}: {'.'.join(map(str, name))} is {quoted(value)}; it must be {error}."
        ) from error


def _remedy(key: str, fields: Mapping[str, Any], cls: type) -> str:
    others = [(name, other) for name, other in _SECTIONS.items() if other is not cls and key in _fields(other)]
    if others:
        return f"move it under {others[0][0]}"
    near = get_close_matches(key, fields, n=1)
    return f"did you mean {near[0]!r}" if near else "leave it out, or see the file that `ace-finetune init` writes"


def _at(where: str, name: tuple[Any, ...], lines: Lines) -> str:
    line = lines.get(tuple(map(str, name)))
    return f"{where}, line {line}" if line else where


def _built(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `RunSettings`; the sections check their ranges."""
    top = {name: value for name, value in content.items() if name != "seed" and name not in _SECTIONS}
    seed = {"seed": content["seed"]} if "seed" in content else {}
    return {**top, **{name: cls(**{**seed, **content[name]}) for name, cls in _SECTIONS.items()}}


def _entries(cls: type, values: Mapping[str, Any]) -> list[str]:
    comments = _attributes(cls)
    return [line for name, value in values.items() for line in _entry(name, value, comments.get(name, ""))]


def _entry(name: str, value: Any, comment: str) -> list[str]:
    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    shown = dumped.removesuffix("...\n").removesuffix("\n")  # strip() would take a no-break space of the value
    return [
        *(f"# {line}" for line in textwrap.wrap(_in_yaml(comment), _WIDTH)),
        f"{name}: {shown}",
    ]


def _in_yaml(comment: str) -> str:
    """Write Python's null and tuples as YAML does."""
    lists = re.sub(r"\(([^()]+),\s*([^()]*)\)(?= or \(| for example)", _as_list, comment)
    return re.sub(r"\bNone\b", "null", lists)


def _as_list(found: re.Match[str]) -> str:
    return f"[{', '.join(part for part in found.groups() if part)}]"


def _attributes(cls: type) -> dict[str, str]:
    """Return the docstring of each attribute of a class; nothing if docstrings are stripped."""
    _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    comments: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if found := re.match(r" {4}(\w+): (.*)", line):
            name, text = found.groups()
            comments[name] = text
        elif name and line.startswith(" " * 8):
            comments[name] += f" {line.strip()}"
        else:
            break
    return comments
