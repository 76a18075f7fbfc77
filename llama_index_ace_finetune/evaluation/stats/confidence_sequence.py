"""Confidence sequence for the mean of bounded values: an interval that is valid at every step at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_ace_finetune.errors import AceFinetuneError

Array = NDArray[np.float64]
Betting = Literal["grid", "plug_in"]
# A bet is a fraction of the largest one that cannot lose everything. Small fractions find small differences.
_GRID_FRACTIONS: Final = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
_PLUG_IN_FRACTION: Final = 0.5
_POINTS: Final = 2001  # candidate means; odd, so that the middle of the bounds is one of them
_CELLS: Final = 2_000_000  # of one block: steps by candidate means by fractions


@dataclass(frozen=True, eq=False)
class ConfidenceSequence:
    """Running means with their intervals after each value, float64 [n].

    The intervals are a running intersection: they never get wider.
    """

    mean: Array
    low: Array
    high: Array


def confidence_sequence(
    values: ArrayLike, *, bounds: tuple[float, float] = (0.0, 1.0), alpha: float = 0.05, betting: Betting = "grid"
) -> ConfidenceSequence:
    """Return the running mean of `values` with an interval that holds at all steps together.

    With probability 1 - alpha the expected value is in every one of the intervals, so one may check after each value
    and stop at any time. The values need only be bounded and have the same expected value given those before.

    The method bets against each candidate mean, upwards with one half of the money and downwards with the other, and
    excludes the candidate once the capital reaches 1 / alpha (Waudby-Smith and Ramdas, "Estimating means of bounded
    random variables by betting", JRSS B 86(1), 2024, theorem 3). Candidates are 2,001 points between the bounds, and
    the interval extends to the next point on each side.

    Args:
        values: in the order of time, float [n].
        bounds: the smallest and the largest possible value.
        alpha: probability of an interval that does not hold.
        betting: "grid" divides the money among bets of several sizes (the paper's hedged grid Kelly); "plug_in" makes
            one bet from the variance so far (its predictable plug-in), and needs more values for the same width.

    Raises:
        AceFinetuneError: for values outside the bounds, or an alpha outside (0, 1).
    """
    scaled = _scaled(values, bounds, alpha)
    bets = _bets(scaled, alpha, betting)
    count = len(scaled)
    grid = np.linspace(0.0, 1.0, _POINTS)
    first, last = 0, _POINTS - 1  # the candidates that are not excluded, and the next one on each side
    up, down = np.zeros((2, _POINTS, len(bets.fractions)))
    low, high = np.zeros(count), np.ones(count)
    start = 0
    while start < count:
        inside = slice(first, last + 1)
        steps = slice(start, start + max(1, _CELLS // (up[inside].size)))
        ups, downs = _log_products(scaled[steps, None, None], bets.at(steps), grid[inside, None], axis=0)
        ups += up[inside]
        downs += down[inside]
        up[inside], down[inside] = ups[-1], downs[-1]
        excluded = np.maximum.accumulate(_log_hedged(ups, downs), axis=0) >= -np.log(alpha)
        left, right = _ends(excluded)
        low[steps], high[steps] = grid[first + left], grid[first + right]
        first, last = first + int(left[-1]), first + int(right[-1])
        start = steps.stop
    low, high = np.maximum.accumulate(low), np.minimum.accumulate(high)
    mean = np.cumsum(scaled) / np.arange(1, count + 1)
    return ConfidenceSequence(*(bounds[0] + (bounds[1] - bounds[0]) * one for one in (mean, low, high)))


def log_capital(
    values: ArrayLike,
    mean: float,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    alpha: float = 0.05,
    betting: Betting = "grid",
) -> Array:
    """Return the log of the capital after each bet against `mean`, float64 of the shape of `values` [..., n].

    Reaching log(1 / alpha) at any step rejects the mean at level alpha, as `confidence_sequence` does. Streams are the
    rows of `values`.

    Raises:
        AceFinetuneError: for values or a mean outside the bounds, or an alpha outside (0, 1).
    """
    scaled = _scaled(values, bounds, alpha)
    candidate = _scaled([mean], bounds, alpha)
    bets = _bets(scaled, alpha, betting)
    return _log_hedged(*_log_products(scaled[..., None], bets, candidate, axis=-2))


class _Bets(NamedTuple):
    """Bets [..., n, 1], each cut to `fractions` [m] of the largest one that cannot lose everything."""

    sizes: Array
    fractions: Array

    def at(self, steps: slice) -> _Bets:
        """Return the bets of some steps of one stream, [steps, 1, 1]."""
        return _Bets(self.sizes[steps, None], self.fractions)


def _scaled(values: ArrayLike, bounds: tuple[float, float], alpha: float) -> Array:
    low, high = bounds
    given = np.asarray(values, np.float64)
    if not 0 < alpha < 1:
        raise AceFinetuneError(f"The alpha of the confidence sequence is {alpha}; it must be between 0 and 1.")
    if not ((given >= low) & (given <= high)).all():  # also false for NaN
        raise AceFinetuneError(f"A value is not between {low:g} and {high:g}, the bounds of the confidence sequence.")
    return (given - low) / (high - low)


def _bets(scaled: Array, alpha: float, betting: Betting) -> _Bets:
    """Return the bets on each step; those of "plug_in" are sqrt(2 log(2 / alpha) / (variance t log(1 + t)))."""
    if betting == "grid":
        return _Bets(np.full((*scaled.shape, 1), np.inf), np.array(_GRID_FRACTIONS))
    steps = np.arange(1, scaled.shape[-1] + 1)
    means = (0.5 + np.cumsum(scaled, axis=-1)) / (steps + 1)
    variances = (0.25 + np.cumsum((scaled - means) ** 2, axis=-1)) / (steps + 1)
    before = np.concatenate([np.full_like(scaled[..., :1], 0.25), variances[..., :-1]], axis=-1)
    sizes = np.sqrt(2 * np.log(2 / alpha) / (before * steps * np.log1p(steps)))
    return _Bets(sizes[..., None], np.array([_PLUG_IN_FRACTION]))


def _log_products(scaled: Array, bets: _Bets, candidates: Array, *, axis: int) -> tuple[Array, Array]:
    """Return the log capital of each bet on a mean above and on one below the candidates."""
    with np.errstate(divide="ignore"):
        above = np.minimum(bets.sizes, bets.fractions / candidates)
        below = np.minimum(bets.sizes, bets.fractions / (1 - candidates))
    gain = scaled - candidates
    with np.errstate(invalid="ignore"):  # 0 times an infinite bet, at a candidate of 0 or 1
        up, down = np.nan_to_num(above * gain, posinf=np.inf), np.nan_to_num(below * gain, neginf=-np.inf)
    return np.cumsum(np.log1p(up), axis=axis), np.cumsum(np.log1p(-down), axis=axis)


def _log_hedged(up: Array, down: Array) -> Array:
    """Return the log of the larger of both halves of the capital, each the mean over the last axis."""
    largest = np.maximum(up.max(axis=-1), down.max(axis=-1))
    finite = np.where(np.isfinite(largest), largest, 0.0)[..., None]
    sums = np.maximum(np.exp(up - finite).sum(axis=-1), np.exp(down - finite).sum(axis=-1))
    return np.asarray(np.log(0.5 / up.shape[-1]) + finite[..., 0] + np.log(sums))


def _ends(excluded: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the columns next to the first and the last one that is not excluded, per row."""
    width = excluded.shape[1]
    left = np.maximum(np.argmin(excluded, axis=1) - 1, 0)
    right = np.minimum(width - np.argmin(excluded[:, ::-1], axis=1), width - 1)
    # All excluded: the mean is between two candidates; the last interval that was not empty is kept.
    kept = int((~excluded.all(axis=1)).sum())  # exclusion is for ever, so these rows come first
    if kept < len(excluded):
        left[kept:], right[kept:] = (left[kept - 1], right[kept - 1]) if kept else (0, width - 1)
    return left, right
