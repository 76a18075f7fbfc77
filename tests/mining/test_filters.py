"""Every filter against a loop in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.mining import filters

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40)


def rows_and_relevant(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates [4, 7] and positives [4, 3] among 12 rows, with padding in both."""
    generator = np.random.default_rng(seed)
    return generator.integers(-1, 12, (4, 7)).astype(np.int32), generator.integers(-1, 12, (4, 3))


def scores_and_min_positive(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positive and negative scores on a coarse grid, so that some equal the limit; one query without a positive."""
    generator = np.random.default_rng(seed)
    scores = (generator.integers(-8, 9, (4, 7)) / 8).astype(np.float32)
    min_positive = (generator.integers(-8, 9, 4) / 8).astype(np.float32)
    min_positive[seed % 4] = np.nan
    return scores, min_positive


@given(seeds)
@few
def test_known_positive(seed: int) -> None:
    rows, relevant = rows_and_relevant(seed)
    expected = [[row != -1 and row in relevant[i].tolist() for row in line] for i, line in enumerate(rows.tolist())]
    assert filters.known_positive(rows, relevant).tolist() == expected
    assert not filters.known_positive(rows, relevant[:, :0]).any()


@given(seeds)
@few
def test_held_out(seed: int) -> None:
    rows, _ = rows_and_relevant(seed)
    excluded = np.random.default_rng(seed).random(12) < 0.4
    expected = [[row != -1 and bool(excluded[row]) for row in line] for line in rows.tolist()]
    assert filters.held_out(rows, excluded).tolist() == expected
    assert not filters.held_out(rows, np.empty(0, bool)).any()


@given(seeds)
@few
def test_near_duplicate_and_maximum_score(seed: int) -> None:
    scores, _ = scores_and_min_positive(seed)
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
    scores, min_positive = scores_and_min_positive(seed)
    expected = [
        [not math.isnan(pos) and not score <= pos - margin for score in line]
        for line, pos in zip(scores.tolist(), min_positive.tolist(), strict=True)
    ]
    assert filters.absolute_margin(scores, min_positive, margin).tolist() == expected


@given(seeds, st.sampled_from([0.5, 0.25, 0.05, 0.0, -0.5]))
@few
def test_relative_margin(seed: int, margin: float) -> None:
    scores, min_positive = scores_and_min_positive(seed)
    expected = [
        [not math.isnan(pos) and not score <= pos - abs(pos) * margin for score in line]
        for line, pos in zip(scores.tolist(), min_positive.tolist(), strict=True)
    ]
    assert filters.relative_margin(scores, min_positive, margin).tolist() == expected


@given(seeds, st.sampled_from([0.5, 0.9, 1.0]))
@few
def test_closer_to_positive(seed: int, fraction: float) -> None:
    max_positive_similarity, min_positive = scores_and_min_positive(seed)
    expected = [
        [not math.isnan(pos) and not score <= pos - abs(pos) * (1 - fraction) for score in line]
        for line, pos in zip(max_positive_similarity.tolist(), min_positive.tolist(), strict=True)
    ]
    assert filters.closer_to_positive(max_positive_similarity, min_positive, fraction).tolist() == expected


@pytest.mark.parametrize(
    ("positive", "kept", "rejected"), [(0.8, 0.7599, 0.7601), (-0.8, -0.8401, -0.8399), (0, 0, 1e-6)]
)
def test_relative_margin_by_hand(positive: float, kept: float, rejected: float) -> None:
    # .8 - .8 * .05 = .76, and -.8 - .8 * .05 = -.84
    found = filters.relative_margin(np.array([[kept, rejected]]), np.array([positive]), 0.05)
    assert found.tolist() == [[False, True]]
