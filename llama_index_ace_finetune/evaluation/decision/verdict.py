"""One sentence that says what to serve, by a rule stated beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_index_ace_finetune.evaluation.decision.system import Choice, choose_system
from llama_index_ace_finetune.evaluation.evaluate import (
    BASE,
    BM25,
    HYBRID_CONVEX,
    HYBRID_EQUAL,
    HYBRID_TUNED,
    MEASURE,
    TRAINED,
    TUNED,
    Evaluation,
)
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference, paired_difference

RULE = (
    "The system is chosen on the dev queries alone. On the test queries it is confirmed if the lower end of the 95 % "
    f"interval (bootstrap by right answer) of its paired difference in {MEASURE} lies above zero and the randomisation "
    "test gives p <= .05: against the base model and, where it needs the tuned model, against the best system that "
    "does not, BM25 alone and equal fusion included. Where such an interval lies below zero, what needs less is served "
    "in its place."
)


@dataclass(frozen=True)
class Verdict:
    """What to serve and the sentence that says so.

    Attributes:
        system: what dev chose.
        ship_tuned: whether that needs the tuned model.
        confirmed: whether it passes the rule on test.
        sentence: for a reader in a hurry.
        rule: what "confirmed" means, and how the training chose its weights.
        best_untuned: the system without the tuned model that is best on test: the hardest to beat.
        against_base: paired difference to the base model in MRR@10; None where the system is the base.
        against_untuned: the same to `best_untuned`; None where that is the system.
        serving: what a retriever has to know: whose vectors to search ("model" or "base") and the legs' weights; those
            of `system`, unless test refuses it; and the weights that dev chose for the base model, should it stand in.
        warnings: what a user must be told besides.
    """

    system: Choice
    ship_tuned: bool
    confirmed: bool
    sentence: str
    rule: str
    best_untuned: str
    against_base: PairedDifference | None
    against_untuned: PairedDifference | None
    serving: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


def reach_verdict(evaluation: Evaluation, selection: Mapping[str, Any] | None) -> Verdict:
    """Return the verdict on a model whose weights were selected on dev (`selection` is the model's own record)."""
    tuned = selection is None or selection.get("shipped") == "finetuned"
    system = choose_system(evaluation, tuned=tuned)
    untuned = [one.name for one in evaluation.systems if one.name not in TRAINED]
    best = max(untuned, key=lambda name: evaluation.mean(name, MEASURE))
    against_base = _against(evaluation, system.name, BASE)
    against_best = _against(evaluation, system.name, best)
    compared = [against_base] + ([against_best] if system.trained else [])
    confirmed = all(one is not None and one.is_gain for one in compared)
    served = _served(evaluation, system, compared)
    choice = selection.get("rule", "") if selection else "No dev selection is recorded with this model."
    return Verdict(
        system=system,
        ship_tuned=system.trained,
        confirmed=confirmed,
        sentence=_sentence(evaluation, system, served, tuned, best, against_base, against_best),
        rule=f"{RULE} Weights: {choice}" if choice else RULE,
        best_untuned=best,
        against_base=against_base,
        against_untuned=against_best,
        serving={
            "system": served.name,
            # Where the training kept the base, the model folder holds it.
            "vectors": "base" if tuned and served.embedding == "base" else "model",
            "weights": list(served.weights),
            "baseline_weights": list((choose_system(evaluation, tuned=False) if served.trained else served).weights),
        },
        warnings=tuple(_warnings(evaluation, system, best, against_best)),
    )


def _against(evaluation: Evaluation, name: str, other: str) -> PairedDifference | None:
    if name == other:
        return None
    if other == BASE:
        return evaluation.difference(name)
    values = evaluation.values
    return paired_difference(values[name][MEASURE], values[other][MEASURE], groups=evaluation.data.groups)


def _served(evaluation: Evaluation, system: Choice, compared: Sequence[PairedDifference | None]) -> Choice:
    """What dev chose; where test shows it to be surely worse than what needs less, that in its place.

    Test refuses and does not choose: of what needs no training, dev's own choice comes first, then the base alone.
    """
    if not any(one is not None and one.high < 0 for one in compared):
        return system
    instead = (choose_system(evaluation, tuned=False), Choice(BASE, "base", (1.0, 0.0), "test refused the others", {}))
    ahead = (one for one in instead if evaluation.mean(one.name, MEASURE) > evaluation.mean(system.name, MEASURE))
    return next(ahead, system)


def _sentence(
    evaluation: Evaluation,
    system: Choice,
    served: Choice,
    tuned: bool,
    best: str,
    against_base: PairedDifference | None,
    against_best: PairedDifference | None,
) -> str:
    count = f"on {len(evaluation.data.queries)} held-out queries"
    if against_base is None:
        refused = "neither tuning nor BM25" if not tuned else "neither the tuned model nor BM25"
        why = f"{refused} beat it on the dev queries" if system.dev_means else system.reason
        return f"KEEP THE BASE MODEL AS IT IS: {why}."
    means = f"{MEASURE} {evaluation.mean(BASE, MEASURE):.3f} -> {evaluation.mean(system.name, MEASURE):.3f}"
    alone = ", the best system without training," if best == BASE else ""
    over_base = f"{means}, {_figures(against_base)} against the base model{alone} {count}"
    instead = "" if served == system else f"; served instead: {served}"
    if not system.trained:
        if instead:
            return f"KEEP THE BASE MODEL AS IT IS: {system} won on the dev queries but is worse on test: {over_base}."
        why = "tuning did not beat the base model on the dev queries" if not tuned else "it is ahead of tuning on dev"
        head = "USE BM25 ALONE" if system.name == BM25 else f"KEEP THE BASE MODEL, SERVED AS {str(system).upper()}"
        return f"{head}: {why}; {over_base}."
    if against_base.high < 0:
        return f"DO NOT SHIP: {system} won on dev but is worse on test: {over_base}{instead}."
    if against_best is not None and against_best.high < 0:
        return (
            f"DO NOT SHIP: {best}, which needs no training, is better than {system}: {MEASURE} "
            f"{evaluation.mean(best, MEASURE):.3f} against {evaluation.mean(system.name, MEASURE):.3f}, difference "
            f"{_figures(against_best)} {count}{instead}."
        )
    if not against_base.is_gain:
        return f"SHIP WITH CARE: {system} won on dev; on test the gain is not certain: {over_base}."
    if best == BASE or against_best is None:
        return f"SHIP {str(system).upper()}: {over_base}."
    if not against_best.is_gain:
        return (
            f"SHIP WITH CARE: {system} is better than the base model ({over_base}), but not certainly better than "
            f"{best}, which needs no training ({_figures(against_best)})."
        )
    return (
        f"SHIP {str(system).upper()}: {over_base}, and {_figures(against_best)} against the best system without "
        f"training, {best}."
    )


def _figures(difference: PairedDifference) -> str:
    return f"{difference.mean:+.3f} (95 % interval {difference.low:+.3f} to {difference.high:+.3f})"


def _warnings(evaluation: Evaluation, system: Choice, best: str, against_best: PairedDifference | None) -> list[str]:
    def mean(name: str) -> float:
        return evaluation.mean(name, MEASURE)

    served = mean(system.name)
    warnings = []
    if against_best is not None and mean(best) > served:
        warnings.append(
            f"{best}, which needs no training, is ahead of what dev chose in {MEASURE} here "
            f"({mean(best):.3f} against {served:.3f})."
        )
    if mean(BM25) > served and best != BM25:
        warnings.append(f"BM25 alone ({mean(BM25):.3f}) is ahead of what dev chose ({served:.3f}) in {MEASURE} here.")
    if system.trained and system.name != TUNED and mean(TUNED) > served:
        warnings.append(
            f"The tuned model alone ({mean(TUNED):.3f}) is ahead of its hybrid ({served:.3f}) in {MEASURE} here."
        )
    if system.name == TUNED and mean(HYBRID_EQUAL) > served:
        warnings.append(
            f"Fused with BM25 at equal weights the tuned model reaches {MEASURE} {mean(HYBRID_EQUAL):.3f} here, "
            f"{served:.3f} alone; the dev queries did not show that."
        )
    if system.name in (TUNED, HYBRID_TUNED) and _against_is_loss(evaluation, HYBRID_EQUAL, system.name):
        warnings.append(
            f"Equal weights would cost {served - mean(HYBRID_EQUAL):.3f} of {MEASURE}: do not fuse this model with "
            "BM25 by plain RRF."
        )
    convex, chosen = (evaluation.dev_values.get(name, np.zeros(0)) for name in (HYBRID_CONVEX, system.name))
    if system.trained and len(convex) and convex.mean() > chosen.mean() + 0.01:
        warnings.append(
            f"Fused by a convex combination of scores the tuned model reaches {MEASURE} {mean(HYBRID_CONVEX):.3f} here "
            f"(dev {convex.mean():.3f} against {chosen.mean():.3f}); the retriever of this package fuses by rank."
        )
    note = evaluation.comparisons[MEASURE].note
    return [*warnings, note] if note else warnings


def _against_is_loss(evaluation: Evaluation, name: str, other: str) -> bool:
    difference = _against(evaluation, name, other)
    return difference is not None and difference.high < 0
