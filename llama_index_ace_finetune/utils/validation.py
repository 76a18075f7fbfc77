"""Validate parsed JSON against a dataclass or TypedDict."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from llama_index_ace_finetune.errors import quoted
from llama_index_ace_finetune.utils.file_errors import Refusal

T = TypeVar("T")


def checked(value: Any, schema: type[T], path: Path, refusal: Refusal) -> T:
    """Return parsed JSON as `schema`, a dataclass or TypedDict; the error names the first invalid field.

    Args:
        value: parsed from `path`.
        schema: the type. Unknown keys are accepted for a TypedDict and refused for a dataclass.
        path: of the file, for the message.
        refusal: builds the error message.

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
    """The first key without a field in the dataclass; pydantic ignores such keys."""
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
