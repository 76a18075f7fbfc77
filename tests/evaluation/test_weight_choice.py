from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from llama_index_ace_finetune.evaluation.fusion_weights import choose_weight

GRID = np.arange(11) / 10


def values_of(means: np.ndarray, *, queries: int, noise: float, seed: int) -> np.ndarray:
    """Per weight and query a value around the mean of the weight; neighbouring weights correlate, as in a fusion."""
    generator = np.random.default_rng(seed)
    steps = generator.normal(0, noise, (11, queries))
    return means[:, None] + generator.normal(0.5, 0.3, queries) + np.cumsum(steps, axis=0)


def test_clear_gain_moves_the_weight() -> None:
    means = -((GRID - 0.8) ** 2)
    choice = choose_weight(values_of(means, queries=300, noise=0.01, seed=0), GRID)
    assert choice.cross_validated
    assert choice.weight in (0.7, 0.8)
    assert choice.gain is not None
    assert choice.error is not None
    assert choice.gain == pytest.approx(0.09, abs=0.02)
    assert choice.gain > choice.error


def test_equal_means_rarely_move_the_weight() -> None:
    moved_by_best = moved_by_rule = moved = 0
    for seed in range(200):
        choice = choose_weight(values_of(np.zeros(11), queries=150, noise=0.1, seed=seed), GRID, seed=seed)
        moved_by_best += choice.best != 0.5
        moved_by_rule += choice.gain is not None
        moved += choice.weight != 0.5
    assert moved_by_best > 150
    # Without an effect the gain exceeds its standard error 1 time in 6, and the first rule must move the weight too.
    assert moved <= binom.ppf(0.999, 200, 0.16)
    assert moved < moved_by_rule


def test_gain_of_one_group_is_not_selected() -> None:
    # One group of 30 queries gains from the dense leg, the other 30 groups of one query each do not.
    values = np.zeros((11, 60))
    values[6:, :30] = 1.0
    groups = [0] * 30 + list(range(1, 31))
    assert choose_weight(values, GRID).weight == 0.6
    choice = choose_weight(values, GRID, groups=groups)
    assert choice.weight == 0.5
    assert choice.best == 0.6


def test_one_group_keeps_equal_weights() -> None:
    values = np.tile(GRID[:, None], (1, 50))
    choice = choose_weight(values, GRID, groups=[0] * 50)
    assert choice.weight == 0.5
    assert choice.best == 1.0


def test_same_seed_same_weight() -> None:
    values = values_of(-((GRID - 0.7) ** 2), queries=80, noise=0.1, seed=3)
    assert choose_weight(values, GRID, seed=1) == choose_weight(values, GRID, seed=1)
