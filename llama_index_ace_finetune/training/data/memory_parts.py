"""The parts of a memory that are about the same thing: its title and the halves of its text."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final

_TITLES: Final = ("title", "heading", "header")
_SENTENCE: Final = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\n+")
_WORD: Final = re.compile(r"\S+")
_FEWEST_WORDS: Final = 8  # of a half


def memory_parts(text: str, metadata: Mapping[str, Any]) -> list[str]:
    """Return the title of a memory, if it has one, and its text without it, cut in two where that is long enough.

    It is cut between sentences, where the halves are most alike in length, each of at least 8 words. A memory without a
    title that cannot be cut is one part: the whole text.
    """
    titles = (metadata.get(name) for name in _TITLES)
    title = next((value.strip() for value in titles if isinstance(value, str) and value.strip()), "")
    # Else the title would be found by its own words.
    body = text.strip().removeprefix(title).strip() or text.strip()
    parts = [*([title] if title and title != body else []), *_halves(body)]
    return [part for part in parts if part]


def _halves(text: str) -> list[str]:
    starts = [word.start() for word in _WORD.finditer(text)]
    before = ((cut, bisect_left(starts, cut.end())) for cut in _SENTENCE.finditer(text))
    cuts = [(cut, count) for cut, count in before if _FEWEST_WORDS <= count <= len(starts) - _FEWEST_WORDS]
    if not cuts:
        return [text]
    best, _ = min(cuts, key=lambda one: abs(2 * one[1] - len(starts)))
    return [text[: best.start()], text[best.end() :]]
