from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import binom

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference, paired_difference


def compare(differences: list[float] | np.ndarray, **options: object) -> PairedDifference:
    values = np.asarray(differences, np.float64)
    return paired_difference(values + 0.5, np.full(len(values), 0.5), **options)  # type: ignore[arg-type]


def test_by_hand() -> None:
    result = paired_difference(np.array([1.0, 0.5, 0.0, 1.0]), np.array([0.5, 0.5, 1.0, 0.0]), seed=3)
    assert result.mean == pytest.approx(0.125)
    assert (result.wins, result.ties, result.losses) == (2, 1, 1)
    assert result.low <= result.mean <= result.high
    # Of the 8 sign patterns of (.5, -1, 1) six have a sum of at least .5 in size: |+-.5|, |+-1.5| twice, |+-2.5|.
    assert result.p_value == pytest.approx(1.0, abs=0.001)


def test_p_value_is_the_fraction_of_sign_flips_that_reach_the_sum() -> None:
    # With differences 1, 2, 4 all signs give another sum; only +++ and --- reach 7.
    assert compare([1.0, 2.0, 4.0]).p_value == pytest.approx(2 / 8, abs=0.02)
    # 1 + 4 - 2 = 3 is reached by 3, 5, 7, -3, -5, -7.
    assert compare([1.0, -2.0, 4.0]).p_value == pytest.approx(6 / 8, abs=0.02)


def test_interval_is_the_bootstrap_interval() -> None:
    differences = np.random.default_rng(0).normal(0.2, 1.0, 400)
    result = compare(differences)
    error = differences.std() / np.sqrt(400)
    assert result.low == pytest.approx(differences.mean() - 1.96 * error, abs=0.15 * error)
    assert result.high == pytest.approx(differences.mean() + 1.96 * error, abs=0.15 * error)


def test_same_seed_same_result() -> None:
    differences = np.random.default_rng(1).normal(size=30)
    assert compare(differences, seed=5) == compare(differences, seed=5)
    assert compare(differences, seed=5) != compare(differences, seed=6)


def test_swapping_the_systems_mirrors_the_result() -> None:
    ours, theirs = np.random.default_rng(2).random((2, 50))
    one, other = paired_difference(ours, theirs), paired_difference(theirs, ours)
    assert one.mean == pytest.approx(-other.mean)
    assert one.low == pytest.approx(-other.high, abs=0.01)
    assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
    assert one.p_value == other.p_value


# ------------------------------------------------------------------------------------------------ in words


@pytest.mark.parametrize(
    ("mean", "low", "high", "p_value", "shown", "why", "mark"),
    [
        (0.158, 0.01, 0.3, 0.07, "p = .070", "not significant, p = .070 is above .05", ""),
        (0.158, 0.01, 0.3, 0.0501, "p = .0501", "not significant, p = .0501 is above .05", ""),
        (0.158, 0.01, 0.3, 0.05, "p = .050", "", "gain"),
        (0.158, 0.01, 0.3, 0.0002, "p < .001", "", "gain"),
        (0.158, -0.01, 0.3, 0.04, "p = .040", "not significant, the 95% interval includes 0", ""),
        (-0.158, -0.3, -0.1, 0.01, "p = .010", "no gain", "loss"),
        (-0.158, -0.3, -0.1, 0.2, "p = .200", "no gain", ""),
        (0.0, 0.0, 0.0, 1.0, "p = 1.000", "no gain", ""),
    ],
)
def test_difference_in_words(
    mean: float, low: float, high: float, p_value: float, shown: str, why: str, mark: str
) -> None:
    one = PairedDifference(mean, low, high, p_value, 3, 1, 2)
    assert str(one) == f"{mean:+.3f} (95% interval {low:+.3f} to {high:+.3f}, {shown})"
    assert one.not_a_gain == why
    assert (one.is_gain, one.is_loss) == (mark == "gain", mark == "loss")
    assert PairedDifference.from_dict({**asdict(one), "p_holm": 1.0}) == one


# ------------------------------------------------------------------------------------------------ edges


def test_no_queries() -> None:
    assert compare([]) == PairedDifference(0.0, 0.0, 0.0, 1.0, 0, 0, 0)


def test_one_query_is_never_significant() -> None:
    result = compare([0.5])
    assert (result.mean, result.low, result.high) == (0.5, 0.5, 0.5)
    assert result.p_value == 1.0


def test_all_ties() -> None:
    result = compare([0.0] * 20)
    assert (result.mean, result.low, result.high, result.p_value) == (0, 0, 0, 1.0)
    assert (result.wins, result.ties, result.losses) == (0, 20, 0)


def test_no_variance() -> None:
    result = compare([0.25] * 20)
    assert result.low == result.high == pytest.approx(0.25)
    # Only 2 of 2^20 sign patterns reach the sum.
    assert result.p_value < 0.001


def test_differences_within_rounding_are_ties() -> None:
    result = paired_difference(np.array([0.1 + 0.2]), np.array([0.3]))
    assert (result.wins, result.ties, result.losses) == (0, 1, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_or_infinite_value_is_refused(bad: float) -> None:
    with pytest.raises(AceFinetuneError, match="A per-query value is NaN or infinite"):
        compare([0.1, bad])


def test_systems_on_different_queries_are_refused() -> None:
    with pytest.raises(AceFinetuneError, match="One system has 2 values and the other 3"):
        paired_difference(np.zeros(2), np.zeros(3))
    with pytest.raises(AceFinetuneError, match="1 group labels for 2 queries"):
        compare([0.1, 0.2], groups=["a"])


# ------------------------------------------------------------------------------------------------ groups


def test_groups_widen_the_interval() -> None:
    generator = np.random.default_rng(4)
    differences = np.repeat(generator.normal(0.1, 1, 20), 10)
    groups = [f"answer {number // 10}" for number in range(200)]
    single, together = compare(differences), compare(differences, groups=groups)
    assert together.mean == single.mean
    assert together.high - together.low > 2 * (single.high - single.low)
    assert together.p_value > single.p_value


def test_groups_of_one_equal_no_groups() -> None:
    differences = np.random.default_rng(5).normal(size=25)
    labels = [f"{number:02d}" for number in range(25)]
    assert compare(differences, groups=labels) == compare(differences)


def test_one_group_is_one_observation() -> None:
    result = compare([1.0, 0.0, 0.5], groups=["a"] * 3)
    assert result.low == result.high == result.mean == pytest.approx(0.5)
    assert result.p_value == 1.0


# ------------------------------------------------------------------------------------------------ simulations


def simulate(trials: int, *, effect: float, seed: int, answers: int = 40) -> list[PairedDifference]:
    """Experiments with groups of 1 to 3 queries, whose differences are correlated within a group."""
    generator = np.random.default_rng(seed)
    results = []
    for trial in range(trials):
        sizes = generator.integers(1, 4, answers)
        labels = np.repeat(np.arange(answers), sizes)
        shared = generator.normal(0, 0.3, answers)[labels]
        differences = effect + shared + generator.normal(0, 0.2, len(labels))
        results.append(compare(differences, groups=labels, resamples=600, seed=trial))
    return results


@pytest.mark.parametrize("answers", [20, 60])
def test_false_positive_rate_and_coverage_without_an_effect(answers: int) -> None:
    results = simulate(1000, effect=0.0, seed=0, answers=answers)
    false_alarms = sum(result.p_value <= 0.05 for result in results)
    low, high = binom.ppf([0.0005, 0.9995], 1000, 0.05)
    assert low <= false_alarms <= high
    covered = sum(result.low <= 0 <= result.high for result in results)
    assert 0.93 <= covered / 1000 <= 0.97


def test_interval_coverage_for_mostly_zero_differences() -> None:
    # Like differences in MRR: 7 of 10 queries are ties, the others vary.
    generator = np.random.default_rng(6)
    covered = 0
    for trial in range(600):
        differences = generator.uniform(-0.8, 1, 100) * (generator.random(100) < 0.3)
        result = compare(differences, resamples=600, seed=trial)
        covered += result.low <= 0.3 * 0.1 <= result.high
    assert 0.93 <= covered / 600 <= 0.97


def test_large_effect_is_significant() -> None:
    results = simulate(60, effect=0.25, seed=1)
    assert np.mean([result.p_value <= 0.05 for result in results]) > 0.9
    assert np.mean([result.low <= 0.25 <= result.high for result in results]) > 0.85
