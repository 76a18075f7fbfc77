"""Filters of synthetic queries: each query is kept, or left out for one reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.splits.near_duplicates import near_duplicate_pairs, words
from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.synthesis.settings import SynthesisSettings

Reason = Literal["length", "repetitive", "copied", "known_query", "repeated", "round_trip"]
REASONS: Final[dict[Reason, str]] = {
    "length": "too short or too long",
    "repetitive": "repeats its own words",
    "copied": "copied from the memory",
    "known_query": "near-duplicate of a known or held-out query",
    "repeated": "near-duplicate of another synthetic query",
    "round_trip": "its memory is not among the first results of hybrid retrieval",
}
_SAMPLES: Final = 5
_COPIED_QUANTILE: Final = 0.9
_LOOP: Final = 8  # words from which on a query may be a loop of a small model


class Search(Protocol):
    """Hybrid retrieval over the memories."""

    def __call__(self, queries: Sequence[str], k: int) -> NDArray[np.int32]:
        """Return the rows of the first k memories of each query, int [n, k], padded with -1."""


@dataclass(frozen=True)
class Filtered:
    """Which queries are kept, and counts and samples of the others by reason."""

    kept: tuple[int, ...]
    counts: dict[Reason, int] = field(default_factory=dict)
    samples: dict[Reason, list[str]] = field(default_factory=dict)


def copied_fraction(query: str, memory: str) -> float:
    """Return the fraction of the query's distinct words that the memory holds."""
    own = words(normalise(query))
    return len(own & words(normalise(memory))) / len(own) if own else 0.0


def copied_limit(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Return the 90th percentile of `copied_fraction` of (query, memory) pairs of users; None without pairs."""
    if not pairs:
        return None
    return float(np.quantile([copied_fraction(query, memory) for query, memory in pairs], _COPIED_QUANTILE))


def filter_queries(
    queries: Sequence[str],
    rows: Sequence[int],
    corpus: Sequence[str],
    *,
    known: Sequence[str],
    settings: SynthesisSettings,
    max_copied: float | None = None,
    drop_copies: bool = False,
    search: Search | None = None,
) -> Filtered:
    """Return which synthetic queries to keep.

    Args:
        queries: texts.
        rows: the row of the memory of each query.
        corpus: texts of all memories.
        known: texts of all known queries, held-out ones included: a near-duplicate of one is always left out.
        settings: limits.
        max_copied: see `SynthesisSettings.max_copied`.
        drop_copies: leave out near-duplicates of the memory itself, which teach nothing about queries.
        search: for the round trip; None to leave that filter out.
    """

    def copied(query: str, memory: str) -> bool:
        if drop_copies and _similarity(query, memory) >= settings.near_duplicate:
            return True
        return max_copied is not None and copied_fraction(query, memory) > max_copied

    reasons: dict[int, Reason] = {}
    for number, (query, row) in enumerate(zip(queries, rows, strict=True)):
        # A script without spaces is counted in pairs of characters.
        length = len(query.split()) if " " in query else len(words(normalise(query)))
        if not settings.min_words <= length <= settings.max_words:
            reasons[number] = "length"
        elif _is_loop(query):
            reasons[number] = "repetitive"
        elif copied(query, corpus[row]):
            reasons[number] = "copied"
    _mark_duplicates(reasons, queries, known, settings.near_duplicate)
    left = [number for number in range(len(queries)) if number not in reasons]
    if search is not None and settings.round_trip is not None and left:
        found = search([queries[number] for number in left], settings.round_trip)
        for number, ranking in zip(left, found, strict=True):
            if rows[number] not in ranking:
                reasons[number] = "round_trip"
    samples: dict[Reason, list[str]] = {}
    for number, reason in sorted(reasons.items()):
        held = samples.setdefault(reason, [])
        if len(held) < _SAMPLES:
            held.append(queries[number])
    kept = tuple(number for number in range(len(queries)) if number not in reasons)
    return Filtered(kept, dict(Counter(reasons[number] for number in sorted(reasons))), samples)


def _is_loop(query: str) -> bool:
    """Whether at most half of the words of a longer query are distinct ones."""
    found = normalise(query).split()
    return len(found) >= _LOOP and len(set(found)) <= len(found) / 2


def _similarity(query: str, memory: str) -> float:
    """Jaccard similarity of the word sets."""
    one, other = words(normalise(query)), words(normalise(memory))
    return len(one & other) / len(one | other) if one else 0.0


def _mark_duplicates(
    reasons: dict[int, Reason], queries: Sequence[str], known: Sequence[str], threshold: float
) -> None:
    """Mark near-duplicates of known queries, and of earlier synthetic queries that are kept."""
    texts = [normalise(text) for text in (*known, *queries)]
    keys = [words(text) for text in texts]
    distinct = {key: text for key, text in zip(keys, texts, strict=True) if key}
    number_of = {key: number for number, key in enumerate(distinct)}
    near: dict[int, set[int]] = {}
    for block in near_duplicate_pairs(list(distinct.values()), threshold):
        for left, right in block.tolist():
            near.setdefault(left, set()).add(right)
            near.setdefault(right, set()).add(left)
    of_known = {number_of[key] for key in keys[: len(known)] if key}
    kept: set[int] = set()
    for number, key in enumerate(keys[len(known) :]):
        if number in reasons or not key:
            continue
        alike = {number_of[key], *near.get(number_of[key], ())}
        if alike & of_known:
            reasons[number] = "known_query"
        elif alike & kept:
            reasons[number] = "repeated"
        else:
            kept.add(number_of[key])
