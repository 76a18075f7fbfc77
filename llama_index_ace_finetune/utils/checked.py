"""Parsed JSON as the types that a reader relies on."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from llama_index_ace_finetune.utils.refusal import Refusal

T = TypeVar("T")


def checked(value: Any, schema: type[T], path: Path, refusal: Refusal) -> T:
    """Return parsed JSON as `schema`, a dataclass or TypedDict; its first fault is named.

    Args:
        value: what was read from `path`.
        schema: the type; what an object holds besides its fields is left out.
        path: of the file, for the message.
        refusal: the sentence about a file that cannot be used.

    Raises:
        AceFinetuneError: the refusal's own class.
    """
    from pydantic import ValidationError

    try:
        return cast(T, _adapter(cast(Hashable, schema)).validate_python(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise refusal.because(path, f"is corrupt ({place}: {first['msg']})") from error


@lru_cache(maxsize=64)
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)
