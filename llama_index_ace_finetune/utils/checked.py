"""Parsed JSON as the types that a reader relies on."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from llama_index_ace_finetune.errors import quoted
from llama_index_ace_finetune.utils.refusal import Refusal

T = TypeVar("T")


def checked(value: Any, schema: type[T], path: Path, refusal: Refusal) -> T:
    """Return parsed JSON as `schema`, a dataclass or TypedDict; its first fault is named.

    Args:
        value: what was read from `path`.
        schema: the type. An object may hold more than a TypedDict names, but not more than a dataclass has fields.
        path: of the file, for the message.
        refusal: the sentence about a file that cannot be used.

    Raises:
        AceFinetuneError: the refusal's own class.
    """
    from pydantic import ValidationError

    try:
        result = cast(T, _adapter(cast(Hashable, schema)).validate_python(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise refusal.because(path, f"is corrupt ({place}: {first['msg']})") from error
    unknown = _unknown(value, result)
    if unknown is not None:
        raise refusal.because(path, f"is corrupt (it has an unknown field {quoted(unknown)})")
    return result


def _unknown(value: Any, result: object) -> str | None:
    """The first key of a dataclass's object that it has no field for; pydantic would leave it out."""
    if not dataclasses.is_dataclass(result) or not isinstance(value, dict):
        return None
    known = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    for key, part in value.items():
        if key not in known:
            return str(key)
        if (inner := _unknown(part, known[key])) is not None:
            return inner
    return None


@lru_cache(maxsize=64)
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)
