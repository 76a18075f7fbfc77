from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.rank_biased_overlap import rank_biased_overlap

RANKINGS = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


def test_even_rankings_by_hand() -> None:
    # Overlaps 0, 2, 2 at depths 1 to 3: (1 - p)/p (2/2 p^2 + 2/3 p^3) + 2/3 p^3, with p = .5: .25 + .0833 + .0833.
    assert rank_biased_overlap("abc", "bad", p=0.5) == pytest.approx(0.25 + 1 / 12 + 1 / 12)
    assert rank_biased_overlap("ab", "ab", p=0.5) == pytest.approx(1.0)
    assert rank_biased_overlap("ab", "cd", p=0.5) == 0.0


def test_uneven_rankings_by_hand() -> None:
    # Lengths 1 and 3, overlaps 0, 1, 1; the shorter ranking has no overlap at its end, so nothing is assumed:
    # (1 - p)/p (1/2 p^2 + 1/3 p^3) + (1/3 + 0) p^3.
    assert rank_biased_overlap("b", "abc", p=0.5) == pytest.approx(1 / 8 + 1 / 24 + 1 / 24)
    # "a" agrees fully as far as it is known: overlaps 1, 1 + 1 assumed, 1 + 2 assumed are 1 at each depth.
    assert rank_biased_overlap("a", "abc", p=0.5) == pytest.approx(1.0)


def test_first_ten_ranks_have_the_weight_of_the_paper() -> None:
    """Equation 21: the first d ranks weigh 1 - p^(d-1) + (1-p)/p d (ln(1/(1-p)) - sum of p^i/i for i < d)."""
    p, d = 0.9, 10
    weight = 1 - p ** (d - 1) + (1 - p) / p * d * (log(1 / (1 - p)) - sum(p**i / i for i in range(1, d)))
    assert weight == pytest.approx(0.8556, abs=1e-4)
    rest = range(100, 1000)
    assert rank_biased_overlap([*range(10), *rest], [*range(10, 20), *rest]) == pytest.approx(1 - weight)


def test_empty_rankings() -> None:
    assert rank_biased_overlap("", "") == 1.0
    assert rank_biased_overlap("", "ab") == rank_biased_overlap("ab", "") == 0.0


@given(RANKINGS, RANKINGS)
def test_properties(first: list[str], second: list[str]) -> None:
    value = rank_biased_overlap(first, second)
    assert 0.0 <= value <= 1.0
    assert value == rank_biased_overlap(second, first)
    assert rank_biased_overlap(first, first) == pytest.approx(1.0)
    if not {*first} & {*second} and (first or second):
        assert value == 0.0


def test_bad_input() -> None:
    with pytest.raises(AceFinetuneError, match="between 0 and 1"):
        rank_biased_overlap("a", "b", p=1.0)
    with pytest.raises(AceFinetuneError, match="twice"):
        rank_biased_overlap("aa", "b")
