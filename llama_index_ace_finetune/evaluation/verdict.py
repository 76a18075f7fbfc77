"""One sentence that says what to ship, by a rule stated beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_index_ace_finetune.evaluation.evaluate import BASE, BM25, HYBRID_TUNED, TUNED, Evaluation
from llama_index_ace_finetune.evaluation.measures import MRR

MEASURE = str(MRR(10))


@dataclass(frozen=True)
class Verdict:
    """What ships and the sentence that says so.

    `ship_tuned` is what the dev rule decided; `confirmed` says whether the test interval lies above zero too;
    `warnings` are things a user must be told, such as BM25 alone being better.
    """

    ship_tuned: bool
    confirmed: bool
    sentence: str
    rule: str
    warnings: tuple[str, ...] = ()


def reach_verdict(evaluation: Evaluation, selection: Mapping[str, Any] | None) -> Verdict:
    """Return the verdict for a model whose weights were selected on dev (`selection` is the model's own record)."""
    difference = evaluation.differences[TUNED][MEASURE]
    count = len(evaluation.data.queries)
    figures = (
        f"{MEASURE} {evaluation.mean(BASE, MEASURE):.3f} -> {evaluation.mean(TUNED, MEASURE):.3f}, "
        f"difference {difference.mean:+.3f} (95 % interval {difference.low:+.3f} to {difference.high:+.3f}) "
        f"on {count} held-out queries"
    )
    ship = selection is None or selection.get("shipped") == "finetuned"
    confirmed = difference.low > 0
    if not ship:
        sentence = "KEEP THE BASE MODEL: tuning did not beat it on the dev queries, so the base model ships."
    elif confirmed:
        sentence = f"SHIP THE TUNED MODEL: {figures}."
    elif difference.high < 0:
        sentence = f"DO NOT SHIP: the tuned model won on dev but is worse on test: {figures}."
    else:
        sentence = f"SHIP WITH CARE: the tuned model won on dev; on test the gain is not certain: {figures}."
    rule = selection.get("rule", "") if selection else "No dev selection is recorded with this model."
    return Verdict(
        ship_tuned=ship, confirmed=confirmed, sentence=sentence, rule=rule, warnings=tuple(_warnings(evaluation))
    )


def _warnings(evaluation: Evaluation) -> list[str]:
    warnings = []
    lexical, hybrid = evaluation.mean(BM25, MEASURE), evaluation.mean(HYBRID_TUNED, MEASURE)
    dense = evaluation.mean(TUNED, MEASURE)
    if lexical > max(hybrid, dense):
        warnings.append(f"BM25 alone ({lexical:.3f}) is ahead of the hybrid ({hybrid:.3f}) in {MEASURE} here.")
    if dense > hybrid:
        warnings.append(f"The dense leg alone ({dense:.3f}) is ahead of the hybrid ({hybrid:.3f}) in {MEASURE} here.")
    return warnings
