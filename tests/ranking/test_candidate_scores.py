"""CandidateScores and FusionSettings: fusion of exact scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.candidate_scores import PADDING, CandidateScores
from llama_index_ace_finetune.ranking.fusion_settings import FusionSettings


def table() -> CandidateScores:
    """One query, three candidates: dense found rows 1 and 4, BM25 rows 4 and 7, late interaction scores all three."""
    return CandidateScores(
        rows=np.array([[1, 4, 7, PADDING]]),
        scores=np.array([[[0.8, 0.6, 0.2, np.nan]], [[0.0, 4.0, 2.0, np.nan]], [[0.5, 0.2, 0.9, np.nan]]]),
        found=np.array([[[True, True, False, False]], [[False, True, True, False]], [[False] * 4]]),
        highest=np.array([[0.8], [4.0], [np.nan]]),
        floors=(-1.0, 0.0, -1.0),
    )


def test_weighted_sum_by_hand() -> None:
    sums = table().sums((0.75, 0.25, 0.0))
    expected = [0.75 * 1.0, 0.75 * 1.6 / 1.8 + 0.25 * 1.0, 0.75 * 1.2 / 1.8 + 0.25 * 0.5]
    assert sums[0, :3] == pytest.approx(expected, abs=1e-6)
    assert sums[0, 3] == -np.inf
    rows, values = table().fuse((0.75, 0.25, 0.0), limit=5)
    assert rows.tolist() == [[4, 1, 7, -1, -1]]
    assert values[0] == pytest.approx([expected[1], expected[0], expected[2], 0.0, 0.0], abs=1e-6)


def test_leg_without_weight_adds_no_candidates() -> None:
    assert table().fuse((1.0, 0.0, 0.0), limit=4)[0].tolist() == [[1, 4, -1, -1]]


def test_late_interaction_is_scaled_by_its_best_candidate() -> None:
    # Without BM25, row 7 (.9) is no candidate, so .5 of row 1 is the highest score.
    sums = table().sums((1.0, 0.0, 3.0))
    assert sums[0, :2] == pytest.approx([0.25 + 0.75, 0.25 * 1.6 / 1.8 + 0.75 * 1.2 / 1.5], abs=1e-6)
    assert sums[0, 2] == -np.inf


def test_table_of_some_legs_has_their_candidates_only() -> None:
    part = table().only([0, 2])
    assert part.rows.tolist() == [[1, 4]]
    assert part.floors == (-1.0, -1.0)
    assert part.highest.tolist() == [[0.8], [0.5]]  # .9 is of a row that only BM25 found
    assert part.sums((1.0, 3.0))[0] == pytest.approx(table().sums((1.0, 0.0, 3.0))[0, :2])


def test_leg_that_found_nothing_adds_nothing() -> None:
    one = table()
    nothing = CandidateScores(
        one.rows[:, :2], one.scores[:2, :, :2] * [[[1.0]], [[0.0]]], one.found[:2, :, :2] & [[[True]], [[False]]],
        np.array([[0.8], [np.nan]]), (-1.0, 0.0),
    )  # fmt: skip
    assert nothing.sums((0.5, 0.5))[0] == pytest.approx([0.5, 0.5 * 1.6 / 1.8], abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0.01, 10))
def test_only_the_ratio_of_weights_matters(cosines: list[float], factor: float) -> None:
    values = np.sort(np.array(cosines))[::-1]
    scores = np.stack([values, values[::-1]])[:, None]
    one = CandidateScores(
        np.arange(len(values))[None], scores, np.ones(scores.shape, bool), scores.max(axis=2), (-1.0, 0.0)
    )
    assert one.sums((0.3, 0.7)) == pytest.approx(one.sums((0.3 * factor, 0.7 * factor)), abs=1e-9)
    assert one.sums((0.3, 0.7)).max() <= 1.0


@pytest.mark.parametrize("weights", [(1.0,), (-1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (float("nan"), 1.0, 0.0)])
def test_wrong_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(AceFinetuneError, match="give 3 numbers of 0 or more"):
        table().sums(weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "sum"}, "must be rrf or convex"),
        ({"weights": {"colbert": 1.0}}, "'colbert' is unknown"),
        ({"weights": {"dense": 0.0}}, "above 0"),
        ({"weights": {}}, "No leg retrieves"),
        ({"kind": "convex", "weights": {"late": 1.0}}, "No leg retrieves"),
        ({"weights": {"dense": 0.5, "late": 0.5}}, "needs fusion 'convex'"),
        ({"depth": 0}, "at least 1"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(AceFinetuneError, match=message):
        FusionSettings(**settings)  # type: ignore[arg-type]
