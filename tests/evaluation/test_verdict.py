from __future__ import annotations

from collections.abc import Callable

import pytest

from llama_index_ace_finetune.evaluation.evaluate import BASE, BM25, HYBRID_TUNED, TUNED, Evaluation
from llama_index_ace_finetune.evaluation.verdict import reach_verdict
from llama_index_ace_finetune.training.selection import RULE

Make = Callable[..., Evaluation]
SHIPS = {"shipped": "finetuned", "rule": RULE}
KEEPS = {"shipped": "base", "rule": RULE}
GOOD, BAD = [1] * 20, [2] * 20


def test_a_gain_on_dev_and_test_ships(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD, HYBRID_TUNED: GOOD}), SHIPS)
    assert verdict.sentence == (
        "SHIP THE TUNED MODEL: MRR@10 0.500 -> 1.000, difference +0.500 (95 % interval +0.500 to +0.500) "
        "on 20 held-out queries."
    )
    assert (verdict.ship_tuned, verdict.confirmed, verdict.rule) == (True, True, RULE)
    assert verdict.warnings == ()


def test_a_gain_that_test_does_not_confirm_ships_with_care(evaluation: Make) -> None:
    mixed = [1, 6] * 10
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: mixed}), SHIPS)
    assert verdict.sentence.startswith("SHIP WITH CARE: the tuned model won on dev; on test the gain is not certain")
    assert (verdict.ship_tuned, verdict.confirmed) == (True, False)


def test_a_loss_on_test_is_told(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: GOOD, TUNED: BAD}), SHIPS)
    assert verdict.sentence.startswith("DO NOT SHIP: the tuned model won on dev but is worse on test: MRR@10 1.000")
    assert not verdict.confirmed


def test_no_gain_on_dev_keeps_the_base(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: GOOD, TUNED: GOOD}), KEEPS)
    assert verdict.sentence.startswith("KEEP THE BASE MODEL: tuning did not beat it on the dev queries")
    assert (verdict.ship_tuned, verdict.confirmed) == (False, False)


@pytest.mark.parametrize("selection", [None, {}])
def test_a_model_without_a_record_of_its_selection(evaluation: Make, selection: dict[str, str] | None) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD}), selection)
    assert verdict.rule == "No dev selection is recorded with this model."


def test_bm25_ahead_of_the_hybrid_is_told(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BM25: GOOD, BASE: BAD, TUNED: BAD, HYBRID_TUNED: BAD}), SHIPS)
    assert verdict.warnings == ("BM25 alone (1.000) is ahead of the hybrid (0.500) in MRR@10 here.",)


def test_the_dense_leg_ahead_of_the_hybrid_is_told(evaluation: Make) -> None:
    verdict = reach_verdict(evaluation({BASE: BAD, TUNED: GOOD, HYBRID_TUNED: BAD}), SHIPS)
    assert verdict.warnings == ("The dense leg alone (1.000) is ahead of the hybrid (0.500) in MRR@10 here.",)
