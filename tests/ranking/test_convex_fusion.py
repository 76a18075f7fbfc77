from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.aligned_legs import AlignedLegs
from llama_index_ace_finetune.ranking.convex_fusion import Normalisation, ScoredLeg, fuse_convex, normalise_scores
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import fuse_rankings

DENSE = ScoredLeg(np.array([[0, 1, 2]], np.int32), np.array([[0.9, 0.7, 0.4]]))
LEXICAL = ScoredLeg(np.array([[2, 0, -1]], np.int32), np.array([[8.0, 4.0, np.nan]]))


def leg(rankings: list[list[int]], scores: list[list[float]], floor: float | None = None) -> ScoredLeg:
    return ScoredLeg(np.array(rankings, np.int32), np.array(scores), floor)


def test_min_max_by_hand() -> None:
    assert normalise_scores(DENSE).tolist() == [pytest.approx([1.0, 0.6, 0.0])]
    assert normalise_scores(LEXICAL).tolist() == [[1.0, 0.0, 0.0]]


def test_min_max_with_floor() -> None:
    cosines = leg([[0, 1]], [[0.5, 0.2]], floor=-1.0)
    assert normalise_scores(cosines).tolist() == [pytest.approx([1.0, 0.8])]
    assert normalise_scores(leg([[0, 1]], [[8.0, 4.0]], floor=0.0)).tolist() == [[1.0, 0.5]]
    assert normalise_scores(leg([[0]], [[-1.0000001]], floor=-1.0)).tolist() == [[1.0]]


def test_z_by_hand() -> None:
    # Mean 4, deviation (8/3) ** .5: 6, 4, 2 are 2, 1 and 0 times 2 / deviation above the lowest.
    step = 2 / (8 / 3) ** 0.5
    assert normalise_scores(leg([[0, 1, 2]], [[6, 4, 2]]), "z").tolist() == [pytest.approx([2 * step, step, 0])]


@pytest.mark.parametrize(("normalisation", "expected"), [("min-max", 1.0), ("z", 0.0)])
def test_equal_scores_and_empty_rankings(normalisation: Normalisation, expected: float) -> None:
    one = leg([[0, 1], [3, -1], [-1, -1]], [[2.0, 2.0], [0.0, 5.0], [1.0, 1.0]])
    assert normalise_scores(one, normalisation).tolist() == [[expected] * 2, [expected, 0.0], [0.0, 0.0]]


def test_fusion_by_hand() -> None:
    # Row 0: .5 * 1 + .5 * 0; row 1: .5 * .6; row 2: .5 * 0 + .5 * 1. Rows 0 and 2 are equal.
    assert fuse_convex([DENSE, LEXICAL], weights=(0.5, 0.5)).tolist()[0][:4] == [0, 2, 1, -1]
    assert fuse_convex([DENSE, LEXICAL], weights=(0.4, 0.6), limit=2).tolist() == [[2, 0]]


def test_leg_with_weight_0_adds_no_rows() -> None:
    assert fuse_convex([DENSE, LEXICAL], weights=(0, 1), limit=4).tolist() == [[2, 0, -1, -1]]
    assert fuse_convex([DENSE, LEXICAL], weights=(1, 0), limit=4).tolist() == [[0, 1, 2, -1]]


@given(st.integers(0, 2**32 - 1), st.sampled_from(["min-max", "z"]), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=40)
def test_fusion_is_invariant_to_score_scale(
    seed: int, normalisation: Normalisation, factor: float, shift: float
) -> None:
    generator = np.random.default_rng(seed)
    rankings = [np.argsort(generator.random((4, 9)), axis=1)[:, :6].astype(np.int32) for _ in range(2)]
    scores = [-np.sort(-generator.integers(0, 50, (4, 6)) / 10.0, axis=1) for _ in range(2)]
    legs = [ScoredLeg(rows, values) for rows, values in zip(rankings, scores, strict=True)]
    scaled = [legs[0], ScoredLeg(rankings[1], scores[1] * factor + shift)]
    one, other = (
        fuse_convex(each, weights=(0.3, 0.7), normalisation=normalisation, limit=9) for each in (legs, scaled)
    )
    assert one.tolist() == other.tolist()
    for row, a, b in zip(one, *rankings, strict=True):
        assert set(row.tolist()) - {-1} == {*a.tolist(), *b.tolist()}


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=60)
def test_aligned_legs_match_reciprocal_rank_fusion(seed: int, weight: float) -> None:
    generator = np.random.default_rng(seed)
    legs = []
    for depth in generator.integers(0, 8, 2):
        rows = np.argsort(generator.random((5, 12)), axis=1)[:, :depth].astype(np.int32)
        rows[np.arange(depth) >= generator.integers(0, depth + 1, (5, 1))] = -1
        legs.append(rows)
    gains = [np.broadcast_to(1 / (61.0 + np.arange(rows.shape[1])), rows.shape) for rows in legs]
    weights = (weight, 1 - weight)
    expected = fuse_rankings(legs, weights=weights, limit=10)
    assert AlignedLegs.of(legs, gains).fuse(weights, limit=10).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("legs", "sentence"),
    [
        ([leg([[0, 0]], [[2.0, 1.0]]), DENSE], "the same row twice"),
        ([leg([[0, 1]], [[2.0, np.nan]]), DENSE], "a score that is NaN"),
        ([leg([[0, 1]], [[np.inf, 1.0]]), DENSE], "A score of a leg is infinite"),
        ([leg([[0, 1]], [[2.0, -1.0]], floor=0.0), DENSE], "a score below its floor 0"),
        ([leg([[0], [1]], [[2.0], [1.0]]), DENSE], "The legs rank 2, 1 queries"),
    ],
)
def test_invalid_legs_are_refused(legs: list[ScoredLeg], sentence: str) -> None:
    with pytest.raises(AceFinetuneError, match=sentence):
        fuse_convex(legs, weights=(0.5, 0.5))


@pytest.mark.parametrize("weights", [(1.0,), (0.5, -0.5), (1, 1, 1)])
def test_invalid_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(AceFinetuneError, match=r"give 2 numbers of 0 or more"):
        fuse_convex([DENSE, LEXICAL], weights=weights)


def test_unknown_normalisation_is_refused() -> None:
    with pytest.raises(AceFinetuneError, match="must be min-max or z"):
        normalise_scores(DENSE, "max")  # type: ignore[arg-type]
