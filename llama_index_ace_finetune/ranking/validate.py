"""Validation of rankings before they are evaluated or fused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError

_BLOCK = 1 << 20  # hits at once


def validate_rankings(rankings: NDArray[np.int32], *, scores: NDArray[np.floating] | None = None) -> None:
    """Validate rankings, and the scores they are sorted by.

    Args:
        rankings: corpus rows int [n, depth], best first, padded with -1 at the end.
        scores: of the hits, float [n, depth]; scores of padding are ignored.

    Raises:
        AceFinetuneError: for a row below -1, a hit after padding, a duplicate row, a NaN score, or a score above
            the one before it; the message has the position of the query.
    """
    if rankings.ndim != 2 or not np.issubdtype(rankings.dtype, np.integer):
        raise AceFinetuneError(
            f"The rankings are {rankings.dtype} of shape {rankings.shape}; give integers of shape [queries, depth]."
        )
    if scores is not None and scores.shape != rankings.shape:
        raise AceFinetuneError(
            f"The scores have shape {scores.shape} and the rankings {rankings.shape}; make them equal."
        )
    depth = max(rankings.shape[1], 1)
    for start in range(0, len(rankings), max(1, _BLOCK // depth)):
        part = slice(start, start + max(1, _BLOCK // depth))
        _validate_block(rankings[part], start)
        if scores is not None:
            _validate_scores(scores[part], rankings[part] >= 0, start)


def _validate_block(rankings: NDArray[np.int32], start: int) -> None:
    _raise_if_any(rankings < -1, start, "a row below -1; give corpus rows, padded with -1")
    after = (rankings[:, 1:] >= 0) & (rankings[:, :-1] < 0)
    _raise_if_any(after, start, "a hit after padding; put -1 only at the end")
    ordered = np.sort(rankings, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    _raise_if_any(twice, start, "the same row twice; keep only its best hit")


def _validate_scores(scores: NDArray[np.floating], hits: NDArray[np.bool_], start: int) -> None:
    _raise_if_any(np.isnan(scores) & hits, start, "a score that is NaN, which has no order; fix the scores")
    rising = (scores[:, 1:] > scores[:, :-1]) & hits[:, 1:]
    _raise_if_any(rising, start, "a score above the one before it; sort hits by score, best first")


def _raise_if_any(bad: NDArray[np.bool_], start: int, what: str) -> None:
    if bad.any():
        raise AceFinetuneError(
            f"The ranking of the query at position {start + int(bad.any(axis=1).argmax())} holds {what}."
        )
