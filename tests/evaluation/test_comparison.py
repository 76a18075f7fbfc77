from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.stats.bootstrap import bootstrap_intervals
from llama_index_ace_finetune.evaluation.stats.comparison import compare_systems
from llama_index_ace_finetune.evaluation.stats.effect_size import paired_effect_size
from llama_index_ace_finetune.evaluation.stats.holm import holm
from llama_index_ace_finetune.evaluation.stats.paired import paired_difference
from llama_index_ace_finetune.evaluation.stats.permutation_test import paired_permutation_test
from llama_index_ace_finetune.evaluation.stats.seed_variance import SeedVariance

RANDOM = np.random.default_rng(0).random((3, 40))
VALUES = {"base": RANDOM[0], "better": RANDOM[0] + 0.2, "other": RANDOM[1], "same": RANDOM[0]}


# ------------------------------------------------------------------------------------------------ comparison


def test_joint_comparison_equals_single_comparisons() -> None:
    groups = np.arange(40) // 3
    result = compare_systems(VALUES, base="base", groups=groups)
    assert (result.base, result.queries, result.groups, result.note) == ("base", 40, 14, "")
    assert list(result.differences) == ["better", "other", "same"]
    for name, difference in result.differences.items():
        single = paired_difference(VALUES[name], VALUES["base"], groups=groups)
        for field in ("mean", "low", "high", "p_value", "wins", "ties", "losses"):
            assert getattr(difference, field) == pytest.approx(getattr(single, field), abs=1e-12), (name, field)


def test_holm_adjustment_and_effect_sizes() -> None:
    result = compare_systems(VALUES, base="base")
    raw = [difference.p_value for difference in result.differences.values()]
    assert list(result.adjusted.values()) == pytest.approx(holm(raw).tolist())
    assert result.adjusted["better"] == pytest.approx(3 * result.differences["better"].p_value)
    gain = VALUES["other"] - VALUES["base"]
    assert result.effect_sizes["other"] == pytest.approx(gain.mean() / gain.std(ddof=1))
    assert result.effect_sizes["better"] is None
    assert result.effect_sizes["same"] == 0.0
    assert (result.differences["same"].p_value, result.adjusted["same"]) == (1.0, 1.0)


@pytest.mark.parametrize(("count", "groups"), [(1, None), (5, ["a"] * 5)])
def test_one_query_or_group_has_unknown_variance(count: int, groups: list[str] | None) -> None:
    result = compare_systems({"a": np.zeros(count), "b": np.ones(count)}, base="a", groups=groups)
    assert (
        result.note
        == "All queries are in one group, so the variance is unknown; add queries with other relevant documents."
    )
    assert result.differences["b"].p_value == result.adjusted["b"] == 1.0
    assert result.effect_sizes["b"] is None


def test_comparison_with_only_the_base() -> None:
    assert compare_systems({"a": np.zeros(3)}, base="a").differences == {}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"b": [0.0]}, "The base 'a' is not among the systems b"),
        ({"a": [0.0], "b": [0.0, 1.0]}, "b has 2 values and a has 1"),
        ({"a": [], "b": []}, "a has 0 values"),
        ({"a": [0.0, 1.0], "b": [0.0, np.nan]}, "NaN or infinite"),
    ],
)
def test_invalid_values_are_refused(values: dict[str, list[float]], sentence: str) -> None:
    with pytest.raises(AceFinetuneError, match=sentence):
        compare_systems({name: np.array(value) for name, value in values.items()}, base="a")


# ------------------------------------------------------------------------------------------------ kernels


def test_bootstrap_matches_exhaustive_enumeration() -> None:
    # Three groups of sums 1, 4, 9 and sizes 1, 2, 3 can be drawn in 27 ways.
    values, groups = np.array([[1.0], [2.0], [2.0], [3.0], [3.0], [3.0]]), np.array([0, 1, 1, 2, 2, 2])
    sums, sizes = np.array([1.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0])
    means = [sums[list(draw)].sum() / sizes[list(draw)].sum() for draw in itertools.product(range(3), repeat=3)]
    # At this level the expanded tail is norm.cdf(1.5 ** .5 * t.ppf(.2, 2)) = .097.
    low, high = bootstrap_intervals(values, groups, resamples=20_000, level=0.6)
    assert low[0] == pytest.approx(np.quantile(means, 0.097, method="inverted_cdf"))
    assert high[0] == pytest.approx(np.quantile(means, 1 - 0.097, method="inverted_cdf"))


def test_p_value_matches_all_sign_patterns() -> None:
    sums = np.array([0.5, -0.2, 0.9, 0.4, 0.1, 0.7])
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    exact = (np.abs(signs @ sums) >= sums.sum() - 1e-9).mean()
    assert paired_permutation_test(sums[:, None], np.arange(6), resamples=40_000)[0] == pytest.approx(exact, abs=0.005)


def test_blocked_computation_matches_normal_distribution() -> None:
    # 5,000 groups x 2,000 resamples are three blocks.
    values = np.random.default_rng(1).normal(0.02, 1, (5000, 2))
    low, high = bootstrap_intervals(values, np.arange(5000), resamples=2000)
    error = values.std(axis=0) / 5000**0.5
    assert (high - low).tolist() == pytest.approx((2 * 1.96 * error).tolist(), rel=0.06)
    p_values = paired_permutation_test(values - values.mean(axis=0) + 2 * error, np.arange(5000), resamples=2000)
    assert p_values.tolist() == pytest.approx([0.0455, 0.0455], abs=0.02)


# ------------------------------------------------------------------------------------------------ small parts


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_between_raw_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    raw = np.array(p_values)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(raw * len(raw), 1.0)).all()
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_holm_refuses_values_outside_0_and_1(bad: float) -> None:
    with pytest.raises(AceFinetuneError, match="not all between 0 and 1"):
        holm([0.5, bad])


def test_effect_size_by_hand() -> None:
    # Mean 2, standard deviation 1.
    assert paired_effect_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0)
    assert paired_effect_size(np.array([0.1] * 7)) is None
    assert paired_effect_size(np.array([0.5])) is None
    assert paired_effect_size(np.array([])) is None
    assert paired_effect_size(np.zeros(4)) == 0.0


def test_seed_variance_by_hand() -> None:
    spread = SeedVariance.of([0.5, 0.6, 0.7])
    assert (spread.mean, spread.deviation, spread.seeds) == (pytest.approx(0.6), pytest.approx(0.1), 3)
    assert str(spread) == "0.600 +- 0.100 (3 seeds)"
    assert SeedVariance.of([[0.0, 1.0], [1.0, 1.0]]) == SeedVariance.of([0.5, 1.0])
    assert str(SeedVariance.of([0.25])) == "0.250 (1 seed)"


@pytest.mark.parametrize("values", [[], [[], []], [0.5, np.nan]])
def test_seed_variance_refuses_missing_values(values: list[float]) -> None:
    with pytest.raises(AceFinetuneError, match="A value of a seed"):
        SeedVariance.of(values)
