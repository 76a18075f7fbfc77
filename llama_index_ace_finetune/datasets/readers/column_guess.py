"""Guess which column was meant, for errors: by its name, or by what it holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from llama_index_ace_finetune.datasets.id_texts import are_ids
from llama_index_ace_finetune.datasets.readers.column_names import squash

_SIMILAR = 0.7


def nearest_column(wanted: Sequence[str], present: Collection[str]) -> str | None:
    """Return the column whose name is most similar to one of the known names; None if none is similar."""
    scored = [
        (SequenceMatcher(None, squash(name), squash(column)).ratio(), column) for column in present for name in wanted
    ]
    best = max(scored, default=(0.0, ""), key=lambda one: one[0])
    return best[1] if best[0] >= _SIMILAR else None


def wordy_column(present: Collection[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the column with the shortest texts of several words, which is the likeliest query; None if none has."""
    lengths = {column: _mean_words(row.get(column) for row in rows) for column in present}
    wordy = {column: length for column, length in lengths.items() if length >= 1.5}
    return min(wordy, key=lambda column: wordy[column], default=None)


def id_column(present: Collection[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the last column that holds ids; None if none does."""
    return next((column for column in reversed(list(present)) if are_ids(row.get(column) for row in rows)), None)


def _mean_words(values: Any) -> float:
    words = [len(value.split()) for value in values if isinstance(value, str)]
    return sum(words) / len(words) if words else 0.0
