"""Known queries as a field of a text, for BM25."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llama_index_ace_finetune.ranking.fusion_settings import Leg

FIELD_LEGS: Final[tuple[Leg, ...]] = ("bm25", "bm25_unstemmed")
"""Legs that can read known queries."""
LARGEST_WEIGHT: Final = 9
"""The largest weight of the field."""


def with_known_field(text: str, queries: Sequence[str], weight: int) -> str:
    """Return the text that BM25 indexes for a memory: its terms, and those of its known queries `weight` times each.

    The weighted sum of the term counts of both fields is that of the result, as is the sum of the lengths.

    Source: the simple form of BM25F, Robertson, Zaragoza and Taylor, "Simple BM25 extension to multiple weighted
    fields", CIKM 2004, with whole weights and weight 1 for the text.

    Args:
        text: of the memory.
        queries: known to be about it.
        weight: 0 for the text as it is.
    """
    return "\n".join([text, *(query for query in queries for _ in range(weight))])
