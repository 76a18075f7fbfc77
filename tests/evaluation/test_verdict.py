from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from llama_index_ace_finetune.evaluation.decision.selection import select_system
from llama_index_ace_finetune.evaluation.decision.verdict import RULE, Verdict, reach_verdict
from llama_index_ace_finetune.evaluation.result import (
    BASE,
    BM25,
    HYBRID_BASE,
    HYBRID_BASE_CONVEX,
    HYBRID_BASE_WEIGHTED,
    HYBRID_CONVEX,
    HYBRID_EQUAL,
    HYBRID_TUNED,
    TUNED,
    Evaluation,
)
from llama_index_ace_finetune.evaluation.stats.paired import p_text

Make = Callable[..., Evaluation]
SHIPS = {"shipped": "finetuned", "rule": "by dev."}
KEEPS = {"shipped": "base", "rule": "by dev."}
GOOD, BAD, MIXED = [1] * 20, [2] * 20, [1, 6] * 10
DENSE_ONLY = {"weights": (1.0, 0.0)}


def dev(**mean_ranks: int) -> Mapping[str, list[int]]:
    """40 dev queries; `tuned=1` puts the relevant document of the tuned model first."""
    names = {"tuned": TUNED, "base": BASE, "bm25": BM25, "hybrid_base": HYBRID_BASE, "hybrid": HYBRID_TUNED}
    names |= {"equal": HYBRID_EQUAL, "convex": HYBRID_CONVEX, "base_weighted": HYBRID_BASE_WEIGHTED}
    names |= {"base_convex": HYBRID_BASE_CONVEX}
    return {BASE: [2] * 40, **{names[key]: [rank] * 40 for key, rank in mean_ranks.items()}}


def searched(verdict: Verdict) -> dict[str, object]:
    """The serving settings without those of the fallback and of score fusion."""
    return {name: verdict.serving[name] for name in ("system", "vectors", "weights")}


def test_gain_on_dev_and_test_ships(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD}, dev=dev(tuned=1), **DENSE_ONLY), SHIPS)
    assert verdict.sentence == (
        "SHIP THE TUNED MODEL (DENSE ONLY): MRR@10 0.500 -> 1.000, +0.500 (95% interval +0.500 to +0.500, p < .001) "
        "against the base model on 20 held-out queries, and +0.500 (95% interval +0.500 to +0.500, p < .001) against "
        "the best system without training, BM25. Each part adds to MRR@10 on dev: tuning +0.500."
    )
    assert (verdict.ship_tuned, verdict.confirmed) == (True, True)
    assert verdict.rule == f"{RULE} Weights: by dev."
    assert searched(verdict) == {"system": TUNED, "vectors": "model", "weights": [1.0, 0.0]}
    assert verdict.best_untuned == BM25  # the first of a tie


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("dev", "The tuned model was trained on the dev queries too, and test measured these very weights"),
        ("all", "the model that is served was then trained on every query and was not measured itself"),
    ],
)
def test_verdict_says_which_weights_a_refit_ships(evaluation: Make, on: str, said: str) -> None:
    measured = evaluation({BASE: BAD, TUNED: GOOD}, dev=dev(tuned=1), **DENSE_ONLY)
    refit = {"ships": True, "on": on}
    assert said in reach_verdict(measured, SHIPS, refit=refit).sentence
    assert said not in reach_verdict(measured, SHIPS).sentence
    assert said not in reach_verdict(measured, KEEPS, refit=refit).sentence  # the base is served


def test_base_is_the_best_untuned_system(evaluation: Make) -> None:
    ranks = {BASE: BAD, TUNED: GOOD, **dict.fromkeys((BM25, HYBRID_BASE, HYBRID_BASE_WEIGHTED), [3] * 20)}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1), **DENSE_ONLY), SHIPS)
    assert verdict.sentence == (
        "SHIP THE TUNED MODEL (DENSE ONLY): MRR@10 0.500 -> 1.000, +0.500 (95% interval +0.500 to +0.500, p < .001) "
        "against the base model, the best system without training, on 20 held-out queries. Each part adds to MRR@10 on "
        "dev: tuning +0.500."
    )
    assert verdict.confirmed
    assert verdict.against_base == verdict.against_untuned


def test_better_untuned_system_is_named(evaluation: Make) -> None:
    ranks = {BASE: [3] * 20, TUNED: BAD, BM25: GOOD}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1), **DENSE_ONLY), SHIPS)
    assert verdict.sentence.startswith(
        "DO NOT SHIP: BM25, which needs no training, is better than the tuned model (dense only): MRR@10 1.000 "
        "against 0.500, difference -0.500"
    )
    assert not verdict.confirmed
    assert verdict.warnings[0] == (
        "BM25, which needs no training, has a higher MRR@10 on test than the system selected on dev "
        "(1.000 against 0.500)."
    )
    assert verdict.sentence.endswith("on 20 held-out queries; served instead: BM25 only.")
    assert searched(verdict) == {"system": BM25, "vectors": "model", "weights": [0.0, 1.0]}


def test_not_significantly_better_than_an_untuned_hybrid_ships_with_care(evaluation: Make) -> None:
    ranks = {BASE: [4] * 20, TUNED: GOOD, HYBRID_BASE: [1] * 18 + [2, 2]}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1), **DENSE_ONLY), SHIPS)
    assert verdict.sentence.startswith(
        "SHIP WITH CARE, since test does not confirm that the tuned model (dense only) is better than base + BM25, "
        "which needs no training (not significant, the 95% interval includes 0): +0.050"
    )
    assert "It is better than the base model: MRR@10 0.250 -> 1.000" in verdict.sentence
    assert not verdict.confirmed


def test_gain_that_is_not_significant_ships_with_care(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: MIXED}, dev=dev(tuned=1), **DENSE_ONLY), SHIPS)
    assert verdict.sentence.startswith(
        "SHIP WITH CARE, since test does not confirm that the tuned model (dense only) is better than the base model "
        "(not significant, the 95% interval includes 0), though it won on dev: MRR"
    )
    assert (verdict.ship_tuned, verdict.confirmed) == (True, False)


def test_loss_on_test_does_not_ship(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: GOOD, TUNED: BAD}, dev=dev(tuned=1), **DENSE_ONLY), SHIPS)
    assert verdict.sentence.startswith(
        "DO NOT SHIP: the tuned model (dense only) won on dev but is worse on test: MRR@10 1.000 -> 0.500"
    )
    assert not verdict.confirmed


def test_base_as_fallback_has_its_dev_weights(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD}, dev=dev(tuned=1, hybrid_base=1)), SHIPS)
    assert (verdict.serving["weights"], verdict.serving["baseline_weights"]) == ([1.0, 0.0], [0.5, 0.5])
    # If the base is served anyway, there is one pair of weights: here test rejected the fused base, too.
    ranks = {BASE: GOOD, TUNED: BAD, HYBRID_BASE: [3] * 20}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1, bm25=3), **DENSE_ONLY), SHIPS)
    assert (verdict.serving["weights"], verdict.serving["baseline_weights"]) == ([1.0, 0.0], [1.0, 0.0])
    # Weights of systems that are fused by score, and what serves as such.
    ranks = {BASE: BAD, TUNED: BAD, HYBRID_CONVEX: GOOD}
    verdict = reach_verdict(evaluation(ranks, dev=dev(convex=1, base_convex=2, hybrid=3, tuned=3)), SHIPS)
    assert verdict.sentence.startswith("SHIP THE TUNED MODEL WITH BM25 (CONVEX): MRR@10 0.500 -> 1.000")
    assert verdict.sentence.endswith("Each part adds to MRR@10 on dev: tuning +0.500 and BM25 +0.667.")
    scored = {"kind": "convex", "weights": {"dense": 0.8, "bm25": 0.2}, "depth": 100}
    assert (verdict.serving["fusion"], verdict.serving["baseline_fusion"]) == (scored, None)
    assert searched(verdict) == {"system": HYBRID_CONVEX, "vectors": "model", "weights": [0.5, 0.5]}


def test_system_that_is_worse_on_test_is_not_served(evaluation: Make) -> None:
    # Of the untuned systems dev prefers the fused base, and test does not reject it.
    made = evaluation({BASE: GOOD, TUNED: BAD}, dev=dev(tuned=1, hybrid_base=1))
    verdict = reach_verdict(made, SHIPS)
    assert verdict.sentence.endswith("; served instead: the base model with BM25 (equal weights).")
    assert searched(verdict) == {"system": HYBRID_BASE, "vectors": "base", "weights": [0.5, 0.5]}
    assert verdict.system.name == TUNED
    # If it is no better than the system it would replace, the base is served without BM25.
    ranks = {BASE: GOOD, TUNED: BAD, HYBRID_BASE: [3] * 20}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1, hybrid_base=1)), SHIPS)
    assert searched(verdict) == {"system": BASE, "vectors": "base", "weights": [1.0, 0.0]}


def test_untuned_selection_that_is_worse_on_test_keeps_the_base(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: GOOD, BM25: BAD}, dev=dev(bm25=1, tuned=2), **DENSE_ONLY), SHIPS)
    assert verdict.sentence.startswith("KEEP THE BASE MODEL AS IT IS: BM25 only won on the dev queries but is worse")
    assert searched(verdict) == {"system": BASE, "vectors": "base", "weights": [1.0, 0.0]}
    assert not verdict.confirmed


def test_better_system_that_cannot_be_served_keeps_the_tuned_model(evaluation: Make) -> None:
    ranks = {name: [3] * 20 for name in (BASE, BM25, HYBRID_BASE)} | {TUNED: BAD, "large-model": GOOD}
    verdict = reach_verdict(evaluation(ranks, dev=dev(tuned=1), **DENSE_ONLY), SHIPS)
    assert verdict.sentence.startswith("DO NOT SHIP: large-model")
    assert verdict.serving["system"] == TUNED


def test_an_interval_above_zero_is_not_enough_with_three_queries(evaluation: Make) -> None:
    # Eight sign flips give no p below 2 / 8.
    verdict = reach_verdict(evaluation({BASE: [2] * 3, TUNED: [1] * 3}, dev=dev(tuned=1), **DENSE_ONLY), SHIPS)
    assert verdict.against_base is not None
    assert verdict.against_base.low > 0
    assert verdict.against_base.p_value > 0.2
    assert not verdict.confirmed
    assert f"(not significant, {p_text(verdict.against_base.p_value)} is above .05)" in verdict.sentence.split(":")[0]


def test_no_gain_in_training_serves_the_base_hybrid(evaluation: Make) -> None:
    ranks = {BASE: BAD, HYBRID_BASE: GOOD}
    verdict = reach_verdict(evaluation(ranks, dev=dev(hybrid_base=1, tuned=1)), KEEPS)
    assert verdict.sentence.startswith(
        "KEEP THE BASE MODEL, SERVED AS THE BASE MODEL WITH BM25 (EQUAL WEIGHTS): tuning did not beat the base model "
        "on the dev queries; MRR@10 0.500 -> 1.000"
    )
    assert (verdict.ship_tuned, verdict.confirmed) == (False, True)
    # The model folder then contains the base.
    assert searched(verdict) == {"system": HYBRID_BASE, "vectors": "model", "weights": [0.5, 0.5]}


def test_base_without_changes(evaluation: Make) -> None:
    verdict = reach_verdict(
        evaluation({BASE: GOOD}, dev={**dev(), BASE: [1] * 40, BM25: [2] * 40}, base_weights=(1.0, 0.0)), KEEPS
    )
    assert verdict.sentence == (
        "KEEP THE BASE MODEL AS IT IS: neither tuning nor another leg beat it on the dev queries."
    )
    assert verdict.against_base is None
    assert (verdict.ship_tuned, verdict.confirmed) == (False, False)


def test_bm25_only_if_selected_on_dev(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, BM25: GOOD}, dev=dev(bm25=1, tuned=2), **DENSE_ONLY), SHIPS)
    assert verdict.sentence.startswith("USE BM25 ONLY: it is better than tuning on dev; MRR@10 0.500 -> 1.000")
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


def test_selection_needs_forty_dev_queries(evaluation: Make) -> None:
    few = {BASE: [2] * 39, BM25: [1] * 39}
    chosen = select_system(evaluation({BASE: BAD}, dev=few), tuned=True)
    means = {TUNED: 0.5, HYBRID_CONVEX: 0.5}
    assert (chosen.name, chosen.weights, dict(chosen.dev_means)) == (TUNED, (1.0, 0.0), means)
    assert chosen.reason == (
        "39 dev queries are too few to select a system on; MRR@10 there: tuned 0.500, tuned + BM25, convex 0.500; "
        "BM25 is added if it gains more than one standard error"
    )
    kept = select_system(evaluation({BASE: BAD}, dev=few), tuned=False)
    assert (kept.name, kept.embedding, kept.weights) == (BASE, "base", (1.0, 0.0))
    enough = select_system(evaluation({BASE: BAD}, dev={BASE: [2] * 40, BM25: [1] * 40}), tuned=True)
    assert enough.name == BM25
    assert enough.dev_means[BM25] == 1.0
    assert enough.reason == "highest MRR@10 1.000 on 40 dev queries of 7 systems"


@pytest.mark.parametrize(
    ("tuned", "dense_only", "fused"), [(True, TUNED, HYBRID_CONVEX), (False, BASE, HYBRID_BASE_CONVEX)]
)
def test_with_few_dev_queries_bm25_needs_a_gain_above_one_standard_error(
    evaluation: Make, tuned: bool, dense_only: str, fused: str
) -> None:
    def chosen(dense_ranks: list[int], fused_ranks: list[int], groups: list[str] | None = None) -> str:
        ranks = {BASE: dense_ranks, dense_only: dense_ranks, fused: fused_ranks}
        return select_system(evaluation({BASE: BAD}, dev=ranks, dev_groups=groups), tuned=tuned).name

    # One query of 10 gains .5: .05 +- .05.
    assert chosen([2] * 10, [1] + [2] * 9) == dense_only
    # Three gain .5 and one loses .25: .125 +- .085.
    three = [1] * 3 + [4] + [2] * 6
    assert chosen([2] * 10, three) == fused
    # Three queries with one relevant document are one observation: .125 +- .131.
    assert chosen([2] * 10, three, ["a"] * 3 + list("bcdefgh")) == dense_only
    assert chosen([2] * 10, three, ["a"] * 10) == dense_only
    assert chosen([1] * 10, [2] * 10) == dense_only
    # A single query shows nothing.
    assert chosen([2], [1]) == dense_only


def test_without_dev_queries_the_model_serves_as_before(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD, HYBRID_EQUAL: MIXED}), SHIPS)
    assert searched(verdict) == {"system": TUNED, "vectors": "model", "weights": [1.0, 0.0]}
    assert verdict.sentence.startswith("SHIP THE TUNED MODEL (DENSE ONLY): MRR@10 0.500 -> 1.000")
    kept = reach_verdict(evaluation({BASE: BAD, HYBRID_BASE: GOOD}), KEEPS)
    assert kept.sentence == "KEEP THE BASE MODEL AS IT IS: 0 dev queries are too few to select a system on."
    assert searched(kept) == {"system": BASE, "vectors": "model", "weights": [1.0, 0.0]}
    assert kept.warnings == (
        "base + BM25, which needs no training, has a higher MRR@10 on test than the system selected on dev "
        "(1.000 against 0.500).",
    )


def test_warning_if_the_hybrid_is_better_on_test(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: BAD, HYBRID_EQUAL: GOOD}), SHIPS)
    assert verdict.warnings == (
        "Fused with BM25 at equal weights the tuned model has MRR@10 1.000 on test, without BM25 0.500; the dev "
        "queries did not show that.",
    )


@pytest.mark.parametrize(
    ("weights", "name"),
    [((0.5, 0.5), HYBRID_EQUAL), ((0.7, 0.3), HYBRID_TUNED), ((1.0, 0.0), TUNED), ((0.0, 1.0), BM25)],
)
def test_system_ahead_on_dev_is_selected(evaluation: Make, weights: tuple[float, float], name: str) -> None:
    ahead = {BASE: [3] * 40, name: [1] * 40}
    chosen = select_system(evaluation({BASE: BAD}, dev=ahead), tuned=True)
    assert (chosen.name, chosen.weights) == (name, weights)


def test_ties_on_dev_select_the_simpler_system(evaluation: Make) -> None:
    equal = {name: [1] * 40 for name in (BASE, BM25, HYBRID_BASE, HYBRID_EQUAL)}
    assert select_system(evaluation({BASE: BAD}, dev=equal), tuned=True).name == BM25


def test_larger_untuned_model_is_compared(evaluation: Make) -> None:
    verdict = reach_verdict(
        evaluation({BASE: [3] * 20, TUNED: BAD, "large-model": GOOD}, dev=dev(tuned=1), **DENSE_ONLY), SHIPS
    )
    assert verdict.best_untuned == "large-model"
    assert verdict.sentence.startswith("DO NOT SHIP: large-model, which needs no training, is better")


@pytest.mark.parametrize("selection", [None, {}])
def test_model_without_selection_record(evaluation: Make, selection: dict[str, str] | None) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD}), selection)
    assert verdict.rule.endswith("No dev selection is recorded with this model.")


def test_warnings(evaluation: Make) -> None:
    ranks = {BASE: [5] * 20, BM25: BAD, TUNED: GOOD, HYBRID_TUNED: [3] * 20}
    verdict = reach_verdict(evaluation(ranks, dev=dev(hybrid=1), weights=(0.6, 0.4)), SHIPS)
    assert verdict.warnings == (
        "BM25, which needs no training, has a higher MRR@10 on test than the system selected on dev "
        "(0.500 against 0.333).",
        "Dense only, the tuned model has a higher MRR@10 on test than its hybrid (1.000 against 0.333).",
        "Equal weights would cost 0.133 of MRR@10: do not fuse this model with BM25 by unweighted RRF.",
    )


def test_synthetic_queries_are_named_first(evaluation: Make) -> None:
    made = evaluation({BASE: BAD, TUNED: GOOD}, dev=dev(tuned=1), **DENSE_ONLY)
    synthetic = {str(row): {"synthetic": "offline"} for row in range(20)}
    verdict = reach_verdict(replace(made, metadata=synthetic), SHIPS)
    assert verdict.sentence.startswith("MEASURED ON SYNTHETIC QUERIES ONLY: SHIP THE TUNED MODEL")
    with_a_user = {**synthetic, "0": {}}
    assert reach_verdict(replace(made, metadata=with_a_user), SHIPS).sentence.startswith("SHIP THE TUNED MODEL")
