"""Recognise ids in a column where texts are expected."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ID = re.compile(r"(?=[^\s]*\d)[A-Za-z0-9][A-Za-z0-9_.:/#+=-]{0,79}")
_MOST = 0.95
_MIN_DISTINCT = 3


def are_ids(values: Iterable[object]) -> bool:
    """Return whether texts are ids: at least 95% of the distinct ones are a single ASCII token with a digit."""
    distinct = {value.strip() if isinstance(value, str) else value for value in values if _is_one(value)}
    found = sum(isinstance(value, int) or bool(_ID.fullmatch(str(value))) for value in distinct)
    return len(distinct) >= _MIN_DISTINCT and found >= _MOST * len(distinct)


def share_words(pairs: Iterable[tuple[str, str]]) -> bool:
    """Return whether any query shares a word with its positive, as a text would and an id does not."""
    return any(
        set(re.findall(r"\w+", query.casefold())) & set(re.findall(r"\w+", text.casefold())) for query, text in pairs
    )


def _is_one(value: object) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or (isinstance(value, int) and not isinstance(value, bool))
