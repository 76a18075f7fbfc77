"""Self-attention over packed (concatenated) texts, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Scores of one product (texts x heads x length x length) that fit the CPU cache.
_CACHED_SCORES = 1 << 21


def packed_attention(projected: Tensor, lengths: Sequence[int], *, heads: int) -> Tensor:
    """Return softmax(Q K' / sqrt(d)) V for each text separately.

    Neighbours of equal length are computed together, so texts sorted by length are fastest. Differentiable.

    Args:
        projected: [tokens, 3 * width], queries (already divided by sqrt(d)), keys and values side by side.
        lengths: tokens of each text, in order; they sum to `tokens`.
        heads: attention heads; they divide `width`.

    Returns:
        [tokens, width], in the type of `projected`.
    """
    width = projected.shape[1] // 3
    groups = list(_groups(lengths, heads=heads))
    parts = []
    # One split: separate slices would each have a gradient as large as the whole.
    for (length, texts), rows in zip(groups, torch.split(projected, [n * m for n, m in groups]), strict=True):
        split = rows.view(texts, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.reshape(3, texts * heads, length, width // heads).unbind()
        weights = torch.softmax(torch.bmm(query, key.transpose(1, 2)), dim=-1)
        mixed = torch.bmm(weights, value).view(texts, heads, length, width // heads)
        parts.append(mixed.transpose(1, 2).reshape(texts * length, width))
    return torch.cat(parts)


def _groups(lengths: Sequence[int], *, heads: int) -> Iterator[tuple[int, int]]:
    """Neighbours of equal length, in groups that fit the cache: (length, count)."""
    for length, count in _runs(lengths):
        at_once = max(1, _CACHED_SCORES // (heads * length * length))
        for first in range(0, count, at_once):
            yield length, min(at_once, count - first)


def _runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Run-length encode: (length, count)."""
    runs: list[tuple[int, int]] = []
    for length in lengths:
        if runs and runs[-1][0] == length:
            runs[-1] = (length, runs[-1][1] + 1)
        else:
            runs.append((length, 1))
    return runs
