"""Inactive memories: archived, deleted, invalid or disabled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index_ace_finetune.datasets.readers.column_names import squash

_ON = frozenset({"archived", "isarchived", "deleted", "isdeleted", "removed", "invalid", "isinvalid", "disabled"})
_OFF = frozenset({"active", "isactive", "enabled", "isenabled"})
_TIMES = frozenset({"deletedat", "archivedat", "removedat", "invalidatedat"})
_STATUS = frozenset({"archived", "deleted", "removed", "invalid", "inactive", "disabled", "retired"})
_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no"})


def is_inactive(entry: Mapping[str, Any]) -> bool:
    """Return whether a memory is marked archived, deleted, invalid or inactive; a flag is a boolean or a word."""
    return any(_marks_inactive(squash(str(name)), value) for name, value in entry.items())


def _marks_inactive(name: str, value: Any) -> bool:
    word = str(value).strip().casefold() if isinstance(value, (bool, int, float, str)) else ""
    if name in _ON:
        return word in _TRUE or word == "1.0"
    if name in _OFF:
        return word in _FALSE or word == "0.0"
    if name in ("status", "state"):
        return word in _STATUS
    return name in _TIMES and bool(word) and word not in ("nan", *_FALSE, "null", "none")
