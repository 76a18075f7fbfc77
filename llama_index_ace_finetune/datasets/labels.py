"""Labels from metadata, which may hold any JSON value."""

from __future__ import annotations

import json
from typing import Any


def labels_of(value: Any) -> tuple[str, ...]:
    """Return the distinct labels of a metadata value: none for null, each item of a list, else its text."""
    if value is None:
        return ()
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(dict.fromkeys(label for one in value for label in labels_of(one)))
    if isinstance(value, dict):
        return (json.dumps(value, sort_keys=True, ensure_ascii=False, default=str),)
    return (str(value),)
