from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from llama_index_ace_finetune.evaluation.fusion_weights import (
    GRID,
    MIN_QUERIES,
    FusionChoice,
    tune_convex_fusion,
    tune_fusion,
)
from llama_index_ace_finetune.evaluation.metrics.measures import MRR, per_query
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System, hybrid_system
from llama_index_ace_finetune.ranking.convex_fusion import ScoredLeg, fuse_convex

Ranked = Callable[[Sequence[int | None]], np.ndarray]
MakeSet = Callable[[int], EvaluationSet]


def tuned(
    ranked: Ranked, dev: EvaluationSet, dense: Sequence[int | None], lexical: Sequence[int | None]
) -> FusionChoice:
    return tune_fusion(
        System(name="tuned", kind="dense", rankings=ranked(dense)),
        System(name="BM25", kind="bm25", rankings=ranked(lexical)),
        dev,
    )


@pytest.mark.parametrize("count", [0, 1, MIN_QUERIES - 1])
def test_few_queries_keep_equal_weights(ranked: Ranked, dev_set: MakeSet, count: int) -> None:
    choice = tuned(ranked, dev_set(count), [1] * count, [9] * count)
    assert choice.weights == (0.5, 0.5)
    assert choice.reason == f"equal, as {count} dev queries are too few to select weights on"
    assert choice.curve == {}


def test_harmful_leg_is_dropped(ranked: Ranked, dev_set: MakeSet) -> None:
    # One leg has the relevant document first; the other has it last, and the first leg's second hit first. Even at
    # weight .9 that hit wins: .9 / 62 + .1 / 61 = .0162 against .9 / 61 + .1 / 90 = .0159.
    dev = dev_set(60)
    good = ranked([1] * 60)
    bad = np.roll(good, -1, axis=1)
    choice = tune_fusion(System("tuned", "dense", good), System("BM25", "bm25", bad), dev)
    assert choice.weights == (1.0, 0.0)
    assert choice.dropped == "BM25"
    assert choice.reason.endswith("; the BM25 leg does not help")
    assert choice.curve[1.0] == 1.0
    assert max(value for weight, value in choice.curve.items() if weight < 1) < 1
    mirrored = tune_fusion(System("tuned", "dense", bad), System("BM25", "bm25", good), dev)
    assert mirrored.weights == (0.0, 1.0)
    assert mirrored.dropped == "dense"
    assert mirrored.reason.endswith("; the dense leg does not help")


def test_leg_is_kept_if_an_intermediate_weight_is_as_good(ranked: Ranked, dev_set: MakeSet) -> None:
    # The lexical leg has one hit, the dense leg's last. At .8 the relevant document leads, .8 / 61 = .0131 against
    # .2 / 61 + .8 / 90 = .0122; at .7 it does not, .0115 against .0127.
    good = ranked([1] * 60)
    choice = tune_fusion(System("tuned", "dense", good), System("BM25", "bm25", good[:, -1:]), dev_set(60))
    assert choice.weights == (0.8, 0.2)
    assert choice.curve[0.8] == choice.curve[1.0] == 1.0
    assert choice.curve[0.7] == 0.5
    assert "does not help" not in choice.reason


def test_equal_legs_stay_equal(ranked: Ranked, dev_set: MakeSet) -> None:
    ranks = [1, 2, 3, 4] * 15
    choice = tuned(ranked, dev_set(60), ranks, ranks)
    assert choice.weights == (0.5, 0.5)
    assert "dense weight 0.5 by MRR@10 on 60 dev queries" in choice.reason


def test_curve_matches_the_hybrid_at_each_weight(ranked: Ranked, dev_set: MakeSet) -> None:
    generator = np.random.default_rng(0)
    dev = dev_set(50)
    dense = System("tuned", "dense", ranked(generator.integers(1, 12, 50).tolist()))
    lexical = System("BM25", "bm25", ranked(generator.integers(1, 12, 50).tolist()))
    choice = tune_fusion(dense, lexical, dev)
    assert tuple(choice.curve) == GRID
    for weight, value in choice.curve.items():
        fused = hybrid_system(dense, lexical, name="hybrid", weights=(weight, 1 - weight))
        assert value == pytest.approx(per_query(MRR(10), fused.rankings, dev.relevant).mean(), abs=1e-4)


def test_gain_within_one_standard_error_keeps_equal_weights(ranked: Ranked, dev_set: MakeSet) -> None:
    # One query of 60 is better with only the dense leg; that is noise.
    dense, lexical = [1] * 60, [1] * 59 + [20]
    assert tuned(ranked, dev_set(60), dense, lexical).weights == (0.5, 0.5)


def test_gain_that_fails_cross_validation_keeps_equal_weights(ranked: Ranked, dev_set: MakeSet) -> None:
    # Random ranks: weight .2 is better by more than one standard error on all queries, but not in cross-validation.
    generator = np.random.default_rng(7)
    dense, lexical = (generator.choice([1, 2, 4], 60).tolist() for _ in range(2))
    choice = tuned(ranked, dev_set(60), dense, lexical)
    assert choice.weights == (0.5, 0.5)
    assert choice.reason.startswith("equal, as selecting by MRR@10 on 60 dev queries (best 0.2) gains +0.001 +- 0.024")
    assert choice.reason.endswith("in cross-validation")
    assert choice.curve[0.2] == max(choice.curve.values()) > choice.curve[0.5] + 0.1


def scored(rankings: np.ndarray, floor: float | None = None) -> ScoredLeg:
    return ScoredLeg(rankings, np.broadcast_to(np.linspace(1.0, 0.1, rankings.shape[1]), rankings.shape), floor)


@pytest.mark.parametrize("normalisation", ["min-max", "z"])
def test_convex_curve_matches_the_fusion(ranked: Ranked, dev_set: MakeSet, normalisation: str) -> None:
    generator = np.random.default_rng(0)
    dev = dev_set(50)
    legs = [scored(ranked(generator.integers(1, 12, 50).tolist())) for _ in range(2)]
    choice = tune_convex_fusion(*legs, dev, normalisation=normalisation)  # type: ignore[arg-type]
    for weight, value in choice.curve.items():
        fused = fuse_convex(legs, weights=(weight, 1 - weight), normalisation=normalisation, limit=10)  # type: ignore[arg-type]
        assert value == pytest.approx(per_query(MRR(10), fused, dev.relevant).mean(), abs=1e-4)


def test_convex_fusion_drops_a_harmful_leg(ranked: Ranked, dev_set: MakeSet) -> None:
    good = ranked([1] * 60)
    # Its irrelevant second hit gets a full score from the lexical leg, and nearly one from the dense.
    dense = ScoredLeg(good, np.broadcast_to(np.r_[1.0, np.full(29, 0.99)], good.shape), floor=0.0)
    choice = tune_convex_fusion(dense, scored(np.roll(good, -1, axis=1)), dev_set(60))
    assert choice.weights == (1.0, 0.0)
    assert choice.dropped == "BM25"


def test_few_queries_keep_equal_convex_weights(ranked: Ranked, dev_set: MakeSet) -> None:
    choice = tune_convex_fusion(scored(ranked([1] * 39)), scored(ranked([9] * 39)), dev_set(39))
    assert choice == FusionChoice((0.5, 0.5), "equal, as 39 dev queries are too few to select weights on")
