from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pytest

from llama_index_ace_finetune.evaluation.decision.system import choose_system
from llama_index_ace_finetune.evaluation.decision.verdict import RULE, Verdict, reach_verdict
from llama_index_ace_finetune.evaluation.evaluate import (
    BASE,
    BM25,
    HYBRID_BASE,
    HYBRID_BASE_WEIGHTED,
    HYBRID_CONVEX,
    HYBRID_EQUAL,
    HYBRID_TUNED,
    TUNED,
    Evaluation,
)

Make = Callable[..., Evaluation]
SHIPS = {"shipped": "finetuned", "rule": "by dev."}
KEEPS = {"shipped": "base", "rule": "by dev."}
GOOD, BAD, MIXED = [1] * 20, [2] * 20, [1, 6] * 10
ALONE = {"weights": (1.0, 0.0)}


def dev(**mean_ranks: int) -> Mapping[str, list[int]]:
    """40 dev queries; `tuned=1` puts the right answer of the tuned model first."""
    names = {"tuned": TUNED, "base": BASE, "bm25": BM25, "hybrid_base": HYBRID_BASE, "hybrid": HYBRID_TUNED}
    names |= {"equal": HYBRID_EQUAL, "convex": HYBRID_CONVEX, "base_weighted": HYBRID_BASE_WEIGHTED}
    return {BASE: [2] * 40, **{names[key]: [rank] * 40 for key, rank in mean_ranks.items()}}


def searched(verdict: Verdict) -> dict[str, object]:
    """What is served, but for the stand-in."""
    return {name: value for name, value in verdict.serving.items() if name != "baseline_weights"}


def test_a_gain_on_dev_and_test_ships(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD}, dev=dev(tuned=1), **ALONE), SHIPS)
    assert verdict.sentence == (
        "SHIP THE TUNED MODEL ALONE: MRR@10 0.500 -> 1.000, +0.500 (95 % interval +0.500 to +0.500) against the base "
        "model on 20 held-out queries, and +0.500 (95 % interval +0.500 to +0.500) against the best system without "
        "training, BM25."
    )
    assert (verdict.ship_tuned, verdict.confirmed) == (True, True)
    assert verdict.rule == f"{RULE} Weights: by dev."
    assert searched(verdict) == {"system": TUNED, "vectors": "model", "weights": [1.0, 0.0]}
    assert verdict.best_untuned == BM25  # the first of equals


def test_the_base_as_the_best_untuned_system(evaluation: Make) -> None:
    ranks = {BASE: BAD, TUNED: GOOD, **dict.fromkeys((BM25, HYBRID_BASE, HYBRID_BASE_WEIGHTED), [3] * 20)}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1), **ALONE), SHIPS)
    assert verdict.sentence == (
        "SHIP THE TUNED MODEL ALONE: MRR@10 0.500 -> 1.000, +0.500 (95 % interval +0.500 to +0.500) against the base "
        "model, the best system without training, on 20 held-out queries."
    )
    assert verdict.confirmed
    assert verdict.against_base == verdict.against_untuned


def test_a_better_untuned_system_is_named(evaluation: Make) -> None:
    ranks = {BASE: [3] * 20, TUNED: BAD, BM25: GOOD}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1), **ALONE), SHIPS)
    assert verdict.sentence.startswith(
        "DO NOT SHIP: BM25, which needs no training, is better than the tuned model alone: MRR@10 1.000 against 0.500, "
        "difference -0.500"
    )
    assert not verdict.confirmed
    assert verdict.warnings[0] == (
        "BM25, which needs no training, is ahead of what dev chose in MRR@10 here (1.000 against 0.500)."
    )
    assert verdict.sentence.endswith("on 20 held-out queries; served instead: BM25 alone.")
    assert searched(verdict) == {"system": BM25, "vectors": "model", "weights": [0.0, 1.0]}


def test_not_certainly_better_than_an_untuned_hybrid_ships_with_care(evaluation: Make) -> None:
    ranks = {BASE: [4] * 20, TUNED: GOOD, HYBRID_BASE: [1] * 18 + [2, 2]}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1), **ALONE), SHIPS)
    assert verdict.sentence.startswith("SHIP WITH CARE: the tuned model alone is better than the base model (MRR@10")
    assert "but not certainly better than base + BM25, which needs no training (+0.050" in verdict.sentence
    assert not verdict.confirmed


def test_a_gain_that_test_does_not_confirm_ships_with_care(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: MIXED}, dev=dev(tuned=1), **ALONE), SHIPS)
    assert verdict.sentence.startswith(
        "SHIP WITH CARE: the tuned model alone won on dev; on test the gain is not certain"
    )
    assert (verdict.ship_tuned, verdict.confirmed) == (True, False)


def test_a_loss_on_test_is_told(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: GOOD, TUNED: BAD}, dev=dev(tuned=1), **ALONE), SHIPS)
    assert verdict.sentence.startswith(
        "DO NOT SHIP: the tuned model alone won on dev but is worse on test: MRR@10 1.000 -> 0.500"
    )
    assert not verdict.confirmed


def test_a_base_that_stands_in_has_the_weights_that_dev_chose_for_it(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD}, dev=dev(tuned=1, bm25=3), **ALONE), SHIPS)
    assert (verdict.serving["weights"], verdict.serving["baseline_weights"]) == ([1.0, 0.0], [0.5, 0.5])
    # Where the base serves anyway, there is one pair of weights: here test refused the fused base, too.
    ranks = {BASE: GOOD, TUNED: BAD, HYBRID_BASE: [3] * 20}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1, bm25=3), **ALONE), SHIPS)
    assert (verdict.serving["weights"], verdict.serving["baseline_weights"]) == ([1.0, 0.0], [1.0, 0.0])


def test_what_is_worse_on_test_is_not_served(evaluation: Make) -> None:
    # Of what needs no training dev prefers the fused base, and test has nothing against it.
    made = evaluation({BASE: GOOD, TUNED: BAD}, dev=dev(tuned=1, bm25=3), **ALONE)
    verdict = reach_verdict(made, SHIPS)
    assert verdict.sentence.endswith("; served instead: the base model with BM25 (equal weights).")
    assert searched(verdict) == {"system": HYBRID_BASE, "vectors": "base", "weights": [0.5, 0.5]}
    assert verdict.system.name == TUNED
    # Where it is no better than what it would replace, the base serves alone.
    ranks = {BASE: GOOD, TUNED: BAD, HYBRID_BASE: [3] * 20}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1, bm25=3), **ALONE), SHIPS)
    assert searched(verdict) == {"system": BASE, "vectors": "base", "weights": [1.0, 0.0]}


def test_an_untuned_choice_that_is_worse_on_test_leaves_the_base(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: GOOD, BM25: BAD}, dev=dev(bm25=1, tuned=2), **ALONE), SHIPS)
    assert verdict.sentence.startswith("KEEP THE BASE MODEL AS IT IS: BM25 alone won on the dev queries but is worse")
    assert searched(verdict) == {"system": BASE, "vectors": "base", "weights": [1.0, 0.0]}
    assert not verdict.confirmed


def test_a_better_system_that_nobody_can_serve_leaves_the_tuned_one(evaluation: Make) -> None:
    ranks = {name: [3] * 20 for name in (BASE, BM25, HYBRID_BASE)} | {TUNED: BAD, "large-model": GOOD}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1), **ALONE), SHIPS)
    assert verdict.sentence.startswith("DO NOT SHIP: large-model")
    assert verdict.serving["system"] == TUNED


def test_an_interval_above_zero_is_not_enough_with_three_queries(evaluation: Make) -> None:
    # Eight sign flips give no p below 2 / 8.
    verdict = reach_verdict(evaluation({BASE: [2] * 3, TUNED: [1] * 3}, dev=dev(tuned=1), **ALONE), SHIPS)
    assert verdict.against_base is not None
    assert verdict.against_base.low > 0
    assert verdict.against_base.p_value > 0.2
    assert not verdict.confirmed


def test_no_gain_in_training_keeps_the_base_but_may_name_its_hybrid(evaluation: Make) -> None:
    ranks = {BASE: BAD, HYBRID_BASE: GOOD}
    verdict = reach_verdict(evaluation(ranks, dev=dev(hybrid_base=1, tuned=1)), KEEPS)
    assert verdict.sentence.startswith(
        "KEEP THE BASE MODEL, SERVED AS THE BASE MODEL WITH BM25 (EQUAL WEIGHTS): tuning did not beat the base model "
        "on the dev queries; MRR@10 0.500 -> 1.000"
    )
    assert (verdict.ship_tuned, verdict.confirmed) == (False, True)
    # The model folder holds the base then.
    assert searched(verdict) == {"system": HYBRID_BASE, "vectors": "model", "weights": [0.5, 0.5]}


def test_the_base_as_it_is(evaluation: Make) -> None:
    verdict = reach_verdict(
        evaluation({BASE: GOOD}, dev={**dev(), BASE: [1] * 40, BM25: [2] * 40}, base_weights=(1.0, 0.0)), KEEPS
    )
    assert verdict.sentence == ("KEEP THE BASE MODEL AS IT IS: neither tuning nor BM25 beat it on the dev queries.")
    assert verdict.against_base is None
    assert (verdict.ship_tuned, verdict.confirmed) == (False, False)


def test_bm25_alone_where_dev_says_so(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, BM25: GOOD}, dev=dev(bm25=1, tuned=2), **ALONE), SHIPS)
    assert verdict.sentence.startswith("USE BM25 ALONE: it is ahead of tuning on dev; MRR@10 0.500 -> 1.000")
    assert verdict.confirmed
    assert searched(verdict) == {"system": BM25, "vectors": "model", "weights": [0.0, 1.0]}
    assert verdict.against_untuned is None


def test_the_base_hybrid_over_tuned_weights_searches_the_base(evaluation: Make) -> None:
    made = evaluation(
        {BASE: BAD, HYBRID_BASE_WEIGHTED: GOOD}, dev=dev(base_weighted=1, hybrid=2), base_weights=(0.7, 0.3)
    )
    verdict = reach_verdict(made, SHIPS)
    assert searched(verdict) == {"system": HYBRID_BASE_WEIGHTED, "vectors": "base", "weights": [0.7, 0.3]}
    assert "THE BASE MODEL WITH BM25 (WEIGHTS 0.7 : 0.3)" in verdict.sentence


def test_the_choice_needs_forty_dev_queries(evaluation: Make) -> None:
    few = {BASE: [2] * 39, BM25: [1] * 39}
    chosen = choose_system(evaluation({BASE: BAD}, dev=few), tuned=True)
    assert (chosen.name, chosen.weights, dict(chosen.dev_means)) == (TUNED, (1.0, 0.0), {TUNED: 0.5, HYBRID_EQUAL: 0.5})
    assert chosen.reason == (
        "39 dev queries are too few to choose weights on; BM25 at equal weight changes MRR@10 there by +0.000 +- 0.000"
    )
    kept = choose_system(evaluation({BASE: BAD}, dev=few), tuned=False)
    assert (kept.name, kept.embedding, kept.weights) == (BASE, "base", (1.0, 0.0))
    enough = choose_system(evaluation({BASE: BAD}, dev={BASE: [2] * 40, BM25: [1] * 40}), tuned=True)
    assert enough.name == BM25
    assert enough.dev_means == {BM25: 1.0, HYBRID_BASE: 0.5, HYBRID_EQUAL: 0.5}


@pytest.mark.parametrize(("tuned", "alone", "fused"), [(True, TUNED, HYBRID_EQUAL), (False, BASE, HYBRID_BASE)])
def test_with_few_dev_queries_bm25_joins_only_by_more_than_a_standard_error(
    evaluation: Make, tuned: bool, alone: str, fused: str
) -> None:
    def chosen(alone_ranks: list[int], fused_ranks: list[int], groups: list[str] | None = None) -> str:
        ranks = {BASE: alone_ranks, alone: alone_ranks, fused: fused_ranks}
        made = evaluation({BASE: BAD}, dev=ranks)
        return choose_system(dataclasses.replace(made, dev_groups=groups or ()), tuned=tuned).name

    # One query of 10 gains .5: .05 +- .05.
    assert chosen([2] * 10, [1] + [2] * 9) == alone
    # Three gain .5 and one loses .25: .125 +- .085.
    three = [1] * 3 + [4] + [2] * 6
    assert chosen([2] * 10, three) == fused
    # The three of one answer are one observation: .125 +- .131.
    assert chosen([2] * 10, three, ["a"] * 3 + list("bcdefgh")) == alone
    assert chosen([2] * 10, three, ["a"] * 10) == alone
    assert chosen([1] * 10, [2] * 10) == alone
    # A single query says nothing.
    assert chosen([2], [1]) == alone


def test_without_dev_queries_the_model_serves_as_before(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD, HYBRID_EQUAL: MIXED}), SHIPS)
    assert searched(verdict) == {"system": TUNED, "vectors": "model", "weights": [1.0, 0.0]}
    assert verdict.sentence.startswith("SHIP THE TUNED MODEL ALONE: MRR@10 0.500 -> 1.000")
    kept = reach_verdict(evaluation({BASE: BAD, HYBRID_BASE: GOOD}), KEEPS)
    assert kept.sentence == "KEEP THE BASE MODEL AS IT IS: 0 dev queries are too few to choose weights on."
    assert searched(kept) == {"system": BASE, "vectors": "model", "weights": [1.0, 0.0]}
    assert kept.warnings == (
        "base + BM25, which needs no training, is ahead of what dev chose in MRR@10 here (1.000 against 0.500).",
    )


def test_a_hybrid_that_test_favours_is_told(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: BAD, HYBRID_EQUAL: GOOD}), SHIPS)
    assert verdict.warnings == (
        "Fused with BM25 at equal weights the tuned model reaches MRR@10 1.000 here, 0.500 alone; the dev queries did "
        "not show that.",
    )


@pytest.mark.parametrize(
    ("weights", "name"),
    [((0.5, 0.5), HYBRID_EQUAL), ((0.7, 0.3), HYBRID_TUNED), ((1.0, 0.0), TUNED), ((0.0, 1.0), BM25)],
)
def test_a_dropped_leg_names_the_other_alone(evaluation: Make, weights: tuple[float, float], name: str) -> None:
    ahead = {BASE: [3] * 40, name: [1] * 40}
    chosen = choose_system(evaluation({BASE: BAD}, dev=ahead, weights=weights), tuned=True)
    assert (chosen.name, chosen.weights) == (name, weights)


def test_equals_on_dev_go_to_what_needs_less(evaluation: Make) -> None:
    equal = {name: [1] * 40 for name in (BASE, BM25, HYBRID_BASE, HYBRID_EQUAL)}
    assert choose_system(evaluation({BASE: BAD}, dev=equal), tuned=True).name == BM25


def test_a_larger_untuned_model_is_an_opponent(evaluation: Make) -> None:
    verdict = reach_verdict(
        evaluation({BASE: [3] * 20, TUNED: BAD, "large-model": GOOD}, dev=dev(tuned=1), **ALONE), SHIPS
    )
    assert verdict.best_untuned == "large-model"
    assert verdict.sentence.startswith("DO NOT SHIP: large-model, which needs no training, is better")


@pytest.mark.parametrize("selection", [None, {}])
def test_a_model_without_a_record_of_its_selection(evaluation: Make, selection: dict[str, str] | None) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD}), selection)
    assert verdict.rule.endswith("No dev selection is recorded with this model.")


def test_what_a_user_must_be_told(evaluation: Make) -> None:
    ranks = {BASE: [5] * 20, BM25: BAD, TUNED: GOOD, HYBRID_TUNED: [3] * 20}
    verdict = reach_verdict(evaluation(ranks, dev=dev(hybrid=1), weights=(0.6, 0.4)), SHIPS)
    assert verdict.warnings == (
        "BM25, which needs no training, is ahead of what dev chose in MRR@10 here (0.500 against 0.333).",
        "The tuned model alone (1.000) is ahead of its hybrid (0.333) in MRR@10 here.",
        "Equal weights would cost 0.133 of MRR@10: do not fuse this model with BM25 by plain RRF.",
    )
    convex = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD}, dev=dev(tuned=2, convex=1), **ALONE), KEEPS | SHIPS)
    assert not any("convex" in warning for warning in convex.warnings)  # BM25 was chosen: nothing needs the training
    convex = reach_verdict(
        evaluation({BASE: [3] * 20, TUNED: GOOD}, dev={**dev(tuned=2, convex=1), BASE: [3] * 40}, **ALONE), SHIPS
    )
    assert any("convex combination of scores the tuned model reaches" in warning for warning in convex.warnings)
