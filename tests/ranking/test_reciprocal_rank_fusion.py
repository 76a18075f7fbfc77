from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import RRF_K, fuse_rankings, reciprocal_rank_fusion


def rows(legs: list[list[int]], **options: object) -> list[int]:
    return [hit.row for hit in reciprocal_rank_fusion(legs, **options)]  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ scores by hand


def test_scores_are_sums_of_reciprocal_ranks_from_one() -> None:
    hits = reciprocal_rank_fusion([[7, 3], [3, 5]])
    assert [hit.row for hit in hits] == [3, 7, 5]
    assert hits[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert hits[1].score == pytest.approx(1 / 61)
    assert hits[2].score == pytest.approx(1 / 62)
    assert [hit.ranks for hit in hits] == [(2, 1), (1, None), (None, 2)]


def test_k_is_sixty_by_default() -> None:
    assert RRF_K == 60
    assert reciprocal_rank_fusion([[4]], k=2)[0].score == pytest.approx(1 / 3)


def test_scaled_is_one_for_a_row_that_is_first_in_every_leg() -> None:
    hits = reciprocal_rank_fusion([[1, 2], [1, 2]], weights=(3.0, 0.5))
    assert hits[0].scaled == 1.0
    assert hits[1].scaled == pytest.approx(61 / 62)


def test_weights_multiply_each_leg() -> None:
    hits = reciprocal_rank_fusion([[1, 2], [2, 1]], weights=(0.7, 0.3))
    assert [hit.row for hit in hits] == [1, 2]
    assert hits[0].score == pytest.approx(0.7 / 61 + 0.3 / 62)
    assert hits[1].score == pytest.approx(0.7 / 62 + 0.3 / 61)
    assert rows([[1, 2], [2, 1]], weights=(0.3, 0.7)) == [2, 1]


def test_leg_with_weight_zero_adds_no_rows() -> None:
    hits = reciprocal_rank_fusion([[1, 2], [9, 2]], weights=(1.0, 0.0))
    assert [hit.row for hit in hits] == [1, 2]
    assert hits[1].ranks == (2, None)
    assert hits[0].scaled == 1.0
    assert rows([[1], [2]], weights=(0.0, 0.0)) == []


def test_repeated_row_counts_once_at_its_best_rank() -> None:
    hits = reciprocal_rank_fusion([[4, 4, 6]])
    assert [(hit.row, hit.ranks) for hit in hits] == [(4, (1,)), (6, (2,))]
    assert [hit.score for hit in hits] == pytest.approx([1 / 61, 1 / 62])


def test_ties_are_ordered_by_row() -> None:
    assert rows([[8, 5], [5, 8]]) == [5, 8]
    assert rows([[9], [4], [6]]) == [4, 6, 9]


def test_ties_do_not_depend_on_the_order_of_legs() -> None:
    # Floating-point sums depend on the order of additions; ties must still be ordered by row.
    legs = [[1, 2, 3], [2, 3, 1], [3, 1, 2]]
    assert rows(legs) == rows(legs[::-1]) == [1, 2, 3]


def test_padding_is_skipped_and_limit_truncates() -> None:
    assert rows([[2, -1, -1], [-1, -1]]) == [2]
    assert rows([[3, 2, 1]], limit=2) == [3, 2]
    assert rows([[], []]) == []
    assert rows([]) == []


def test_the_number_of_weights_is_checked() -> None:
    with pytest.raises(ValueError, match="2 legs need as many weights, not 1"):
        reciprocal_rank_fusion([[1], [2]], weights=[1.0])
    with pytest.raises(ValueError, match="shorter"):
        fuse_rankings([np.array([[1]], np.int32), np.array([[1]], np.int32)], weights=[1.0])


# ------------------------------------------------------------------------------------------------ many queries


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[np.ndarray], list[float], int, int]:
    queries, legs = draw(st.integers(0, 4)), draw(st.integers(1, 3))
    blocks = []
    for _ in range(legs):
        depth = draw(st.integers(0, 6))
        block = np.full((queries, depth), -1, np.int32)
        for row in block:
            found = draw(st.lists(st.integers(0, 9), unique=True, max_size=depth))
            row[: len(found)] = found
        blocks.append(block)
    weights = draw(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0, 2.0]), min_size=legs, max_size=legs))
    return blocks, weights, draw(st.sampled_from([1, 2, 60])), draw(st.integers(1, 25))


@given(rankings())
def test_fuse_rankings_equals_reciprocal_rank_fusion(
    case: tuple[list[np.ndarray], list[float], int, int],
) -> None:
    blocks, weights, k, limit = case
    fused = fuse_rankings(blocks, weights=weights, k=k, limit=limit)
    assert fused.dtype == np.int32
    assert fused.shape == (len(blocks[0]), limit)
    for query, row in enumerate(fused.tolist()):
        single = rows([block[query].tolist() for block in blocks], weights=weights, k=k, limit=limit)
        assert row == single + [-1] * (limit - len(single))


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=3))
def test_result_has_every_row_once_by_decreasing_score(legs: list[list[int]]) -> None:
    hits = reciprocal_rank_fusion(legs)
    assert sorted(hit.row for hit in hits) == sorted({row for leg in legs for row in leg})
    keys = [(-round(hit.score, 12), hit.row) for hit in hits]
    assert keys == sorted(keys)
    assert all(0 < hit.scaled <= 1 for hit in hits)
