from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.stats.confidence_sequence import confidence_sequence, log_capital

CREDIT = (-1.0, 1.0)


def credit_streams(rng: np.random.Generator, streams: int, steps: int, difference: float = 0.0) -> np.ndarray:
    """Credit of queries of which 40 % have none, with this expected value."""
    return rng.choice([-1.0, 0.0, 1.0], (streams, steps), p=[0.3 - difference / 2, 0.4, 0.3 + difference / 2])


def test_capital_by_hand() -> None:
    # Value 1 in [0, 1] against a mean of .5: a bet of fraction f wins f upwards, and loses f downwards.
    fractions = np.array([0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
    up_twice = 0.5 * ((1 + fractions) ** 2).mean()
    up_and_down = 0.5 * (1 - fractions**2).mean()
    capital = np.exp(log_capital([[1.0, 1.0], [1.0, 0.0]], 0.5))
    assert capital[0] == pytest.approx([0.5 * (1 + fractions).mean(), up_twice])
    assert capital[1] == pytest.approx([0.5 * (1 + fractions).mean(), up_and_down])


@pytest.mark.parametrize(
    ("bounds", "values"),
    [
        ((0.0, 1.0), np.random.default_rng(0).random(400)),
        ((0.0, 1.0), (np.random.default_rng(1).random(400) < 0.9) * 1.0),
        (CREDIT, credit_streams(np.random.default_rng(2), 1, 800, 0.3)[0]),
        ((0.0, 1.0), np.ones(300)),
        ((0.0, 5.0), np.zeros(300)),
    ],
)
def test_plug_in_is_that_of_ville(bounds: tuple[float, float], values: np.ndarray) -> None:
    ville = pytest.importorskip("ville", reason="the package ville is not installed")
    theirs = ville.BettingCS(bounds=bounds, grid=2001).fit(values)
    ours = confidence_sequence(values, bounds=bounds, betting="plug_in")
    np.testing.assert_allclose(ours.mean, theirs.estimate_, atol=1e-12)
    np.testing.assert_allclose(ours.low, theirs.lower_, atol=1e-9)
    np.testing.assert_allclose(ours.high, theirs.upper_, atol=1e-9)


def test_grid_of_bets_is_narrower_than_ville() -> None:
    ville = pytest.importorskip("ville", reason="the package ville is not installed")
    values = credit_streams(np.random.default_rng(3), 1, 1500, 0.1)[0]
    ours = confidence_sequence(values, bounds=CREDIT)
    theirs = ville.BettingCS(bounds=CREDIT, grid=2001).fit(values)
    assert ours.high[-1] - ours.low[-1] < 0.85 * (theirs.upper_[-1] - theirs.lower_[-1])
    assert theirs.lower_[-1] < ours.mean[-1] < theirs.upper_[-1]


def test_at_most_alpha_of_the_streams_ever_reject_the_true_mean() -> None:
    values = credit_streams(np.random.default_rng(4), 800, 300)
    for betting in ("grid", "plug_in"):
        ever = (log_capital(values, 0.0, bounds=CREDIT, betting=betting) >= np.log(20)).any(axis=1)
        assert 0.0 < ever.mean() <= 0.05


def test_interval_excludes_what_the_capital_rejects() -> None:
    values = credit_streams(np.random.default_rng(5), 1, 1500, 0.2)[0]
    found = confidence_sequence(values, bounds=CREDIT)
    rejected = np.maximum.accumulate(log_capital(values, 0.0, bounds=CREDIT)) >= np.log(20)
    assert rejected.any()
    # The interval goes on to the next candidate, so it excludes 0 at the same step or a little later.
    assert not ((found.low > 0) & ~rejected).any()
    assert int(np.argmax(found.low > 0)) - int(np.argmax(rejected)) < 30


@settings(max_examples=8)
@given(arrays(np.float64, st.integers(0, 12), elements=st.floats(0, 1)))
def test_properties(values: np.ndarray) -> None:
    found = confidence_sequence(values)
    assert (np.diff(found.low) >= 0).all()
    assert (np.diff(found.high) <= 0).all()
    assert (found.low <= found.high).all()
    mirrored = confidence_sequence(-values, bounds=(-1.0, 0.0))
    np.testing.assert_allclose(mirrored.low, -found.high, atol=1e-9)


def test_impossible_stream_keeps_the_last_interval() -> None:
    """A stream whose mean moves excludes every candidate in the end."""
    found = confidence_sequence(np.r_[np.zeros(300), np.ones(300)])
    assert 0 <= found.low[-1] < found.high[-1] < 0.1


def test_bad_input() -> None:
    with pytest.raises(AceFinetuneError, match="not between 0 and 1"):
        confidence_sequence([0.5, 1.5])
    with pytest.raises(AceFinetuneError, match="not between 0 and 1"):
        confidence_sequence([0.5, np.nan])
    with pytest.raises(AceFinetuneError, match="must be between 0 and 1"):
        confidence_sequence([0.5], alpha=0.0)
