"""Whether rankings are such that a measure means something."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError

_BLOCK = 1 << 20  # hits at once


def check_rankings(rankings: NDArray[np.int32], *, scores: NDArray[np.floating] | None = None) -> None:
    """Check rankings, and the scores they were made by.

    Args:
        rankings: corpus rows int [n, depth], best first, padded with -1 at the end.
        scores: of the hits, float [n, depth]; what stands beside padding does not count.

    Raises:
        AceFinetuneError: for a row below -1, a hit after padding, a row twice in one ranking, a score that is NaN, or
            a score above the one before it; names the query by its place.
    """
    if rankings.ndim != 2 or not np.issubdtype(rankings.dtype, np.integer):
        raise AceFinetuneError(
            f"The rankings are {rankings.dtype} of shape {rankings.shape}; "
            "give whole numbers of shape [queries, depth]."
        )
    if scores is not None and scores.shape != rankings.shape:
        raise AceFinetuneError(
            f"The scores have shape {scores.shape} and the rankings {rankings.shape}; make them equal."
        )
    depth = max(rankings.shape[1], 1)
    for start in range(0, len(rankings), max(1, _BLOCK // depth)):
        part = slice(start, start + max(1, _BLOCK // depth))
        _check_block(rankings[part], start)
        if scores is not None:
            _check_scores(scores[part], rankings[part] >= 0, start)


def _check_block(rankings: NDArray[np.int32], start: int) -> None:
    _refuse(rankings < -1, start, "a row below -1; give corpus rows, padded with -1")
    after = (rankings[:, 1:] >= 0) & (rankings[:, :-1] < 0)
    _refuse(after, start, "a hit after padding; put -1 at the end only")
    ordered = np.sort(rankings, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    _refuse(twice, start, "the same row twice; keep its best hit only")


def _check_scores(scores: NDArray[np.floating], hits: NDArray[np.bool_], start: int) -> None:
    _refuse(np.isnan(scores) & hits, start, "a score that is NaN, which has no order; mend what gave it")
    rising = (scores[:, 1:] > scores[:, :-1]) & hits[:, 1:]
    _refuse(rising, start, "a score above the one before it; put the best hit first")


def _refuse(bad: NDArray[np.bool_], start: int, what: str) -> None:
    if bad.any():
        raise AceFinetuneError(
            f"The ranking of the query at place {start + int(bad.any(axis=1).argmax())} holds {what}."
        )
