"""Batches of token ids with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Enough for near-peak CPU throughput; more would exceed its cache.
TOKENS = 1024
INPUTS: Final = ("input_ids", "attention_mask")
"""Names of the inputs of a graph, the fields of a `TokenBatch`."""
_LONE_MULTIPLE = 8


@dataclass(frozen=True)
class TokenBatch:
    """A batch of texts of similar length.

    Attributes:
        rows: indices of the texts, int [n].
        token_ids: int64 [n, width], padded at the end.
        attention_mask: int64 [n, width], 1 for tokens.
    """

    rows: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


def token_batches(texts: Sequence[Sequence[int]], *, padding_id: int, budget: int = TOKENS) -> list[TokenBatch]:
    """Return batches of at most `budget` tokens including padding (and at least one text), longest texts first.

    A single text is padded to a multiple of 8: runtimes prepare for each new shape, and single queries have any length.

    Args:
        texts: token ids of each text, at least one each.
        padding_id: id of the padding token.
        budget: tokens per batch.
    """
    lengths = np.array([len(text) for text in texts], np.int64)
    if len(texts) == 1:
        width = -(-int(lengths[0]) // _LONE_MULTIPLE) * _LONE_MULTIPLE
        return [_batch(texts, np.zeros(1, np.int64), width, padding_id)]
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        width = int(lengths[order[start]])
        rows = order[start : start + max(1, budget // width)]
        batches.append(_batch(texts, rows, width, padding_id))
        start += len(rows)
    return batches


def padding_share(batches: Sequence[TokenBatch]) -> float:
    """Return the fraction of padding positions, in [0, 1]."""
    positions = sum(batch.attention_mask.size for batch in batches)
    tokens = sum(int(batch.attention_mask.sum()) for batch in batches)
    return 1 - tokens / positions if positions else 0.0


def _batch(texts: Sequence[Sequence[int]], rows: NDArray[np.int64], width: int, padding_id: int) -> TokenBatch:
    token_ids = np.full((len(rows), width), padding_id, np.int64)
    attention_mask = np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        text = texts[row]
        token_ids[place, : len(text)] = text
        attention_mask[place, : len(text)] = 1
    return TokenBatch(rows=rows, token_ids=token_ids, attention_mask=attention_mask)
