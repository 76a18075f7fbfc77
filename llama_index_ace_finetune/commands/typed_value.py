"""A value from a file or an option as the type that a setting is declared with."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def typed_value(value: Any, hint: Any) -> Any:
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
                return typed_value(value, option)
            except TypeError:
                continue
    elif origin is Literal and value in inner:
        return value
    elif origin in (tuple, frozenset) and isinstance(value, (list, tuple, set, frozenset)):
        return origin(typed_value(one, inner[0]) for one in value)
    elif hint is type(None) and value is None:
        return None
    elif hint in _PLAIN and not isinstance(value, bool):
        if hint is float and isinstance(value, (int, float, str)):
            return _number(value)
        if isinstance(value, (str, Path)) if hint is Path else isinstance(value, hint):
            return hint(value)
    elif hint is bool and isinstance(value, bool):
        return value
    raise TypeError(wanted(hint))


def wanted(hint: Any) -> str:
    """Say in words what a setting of the type `hint` must be."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(wanted(option) for option in inner))
    if origin is Literal:
        return f"{', '.join(inner[:-1])} or {inner[-1]}"
    if origin in (tuple, frozenset):
        return f"a list in brackets, each of it {wanted(inner[0])}"
    return "null" if hint is type(None) else _PLAIN[hint]


def _number(value: int | float | str) -> float:
    # YAML takes 5e-5, for want of a point, for a text.
    try:
        return float(value)
    except ValueError as error:
        raise TypeError(_PLAIN[float]) from error
