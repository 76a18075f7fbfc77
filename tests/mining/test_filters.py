"""Every filter against a loop that says the same in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.mining import filters

seeds = st.integers(0, 2**32 - 1)
few = settings(deadline=None, max_examples=40)


def rows_and_right(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates [4, 7] and right answers [4, 3] among 12 rows, with empty places in both."""
    generator = np.random.default_rng(seed)
    return generator.integers(-1, 12, (4, 7)).astype(np.int32), generator.integers(-1, 12, (4, 3))


def scores_and_positive(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of either sign on a coarse grid, so that some are equal to the limit; one query without a positive."""
    generator = np.random.default_rng(seed)
    scores = (generator.integers(-8, 9, (4, 7)) / 8).astype(np.float32)
    positive = (generator.integers(-8, 9, 4) / 8).astype(np.float32)
    positive[seed % 4] = np.nan
    return scores, positive


@given(seeds)
@few
def test_right_answer(seed: int) -> None:
    rows, right = rows_and_right(seed)
    expected = [[row != -1 and row in right[i].tolist() for row in line] for i, line in enumerate(rows.tolist())]
    assert filters.right_answer(rows, right).tolist() == expected
    assert not filters.right_answer(rows, right[:, :0]).any()


@given(seeds)
@few
def test_held_out_answer(seed: int) -> None:
    rows, _ = rows_and_right(seed)
    excluded = np.random.default_rng(seed).random(12) < 0.4
    expected = [[row != -1 and bool(excluded[row]) for row in line] for line in rows.tolist()]
    assert filters.held_out_answer(rows, excluded).tolist() == expected
    assert not filters.held_out_answer(rows, np.empty(0, bool)).any()


@given(seeds)
@few
def test_scores_against_a_number(seed: int) -> None:
    scores, _ = scores_and_positive(seed)
    assert filters.near_duplicate(scores, 0.5).tolist() == [[s >= 0.5 for s in line] for line in scores.tolist()]
    assert filters.maximum_score(scores, 0.5).tolist() == [[s > 0.5 for s in line] for line in scores.tolist()]


@given(seeds, st.integers(1, 9))
@few
def test_rank_window(seed: int, first: int) -> None:
    ranks = np.random.default_rng(seed).integers(1, 10, (4, 7)).astype(np.int32)
    assert filters.rank_window(ranks, first).tolist() == [[r <= first for r in line] for line in ranks.tolist()]


@given(seeds, st.sampled_from([0.0, 0.05, 0.125, 1.0]))
@few
def test_absolute_margin(seed: int, margin: float) -> None:
    scores, positive = scores_and_positive(seed)
    expected = [
        [not math.isnan(pos) and not score <= pos - margin for score in line]
        for line, pos in zip(scores.tolist(), positive.tolist(), strict=True)
    ]
    assert filters.absolute_margin(scores, positive, margin).tolist() == expected


@given(seeds, st.sampled_from([0.5, 0.25, 0.05, 0.0, -0.5]))
@few
def test_relative_margin(seed: int, margin: float) -> None:
    scores, positive = scores_and_positive(seed)
    expected = [
        [not math.isnan(pos) and not score <= pos - abs(pos) * margin for score in line]
        for line, pos in zip(scores.tolist(), positive.tolist(), strict=True)
    ]
    assert filters.relative_margin(scores, positive, margin).tolist() == expected


@given(seeds, st.sampled_from([0.5, 0.9, 1.0]))
@few
def test_nearer_answer(seed: int, share: float) -> None:
    nearest, positive = scores_and_positive(seed)
    expected = [
        [not math.isnan(pos) and not score <= pos - abs(pos) * (1 - share) for score in line]
        for line, pos in zip(nearest.tolist(), positive.tolist(), strict=True)
    ]
    assert filters.nearer_answer(nearest, positive, share).tolist() == expected


@pytest.mark.parametrize(
    ("positive", "kept", "refused"), [(0.8, 0.7599, 0.7601), (-0.8, -0.8401, -0.8399), (0, 0, 1e-6)]
)
def test_the_relative_margin_by_hand(positive: float, kept: float, refused: float) -> None:
    # .8 - .8 * .05 = .76, and -.8 - .8 * .05 = -.84
    found = filters.relative_margin(np.array([[kept, refused]]), np.array([positive]), 0.05)
    assert found.tolist() == [[False, True]]
