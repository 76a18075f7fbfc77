"""The verdict: which system to serve, by a predefined rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index_ace_finetune.datasets.types import SYNTHETIC
from llama_index_ace_finetune.evaluation.choosing.choose import MIN_QUERIES
from llama_index_ace_finetune.evaluation.choosing.contributions import contributions
from llama_index_ace_finetune.evaluation.decision.selection import (
    SystemSelection,
    select_system,
    selection_of,
    serving_settings,
)
from llama_index_ace_finetune.evaluation.decision.sentence import Outcome, outcome_sentence
from llama_index_ace_finetune.evaluation.result import (
    BASE,
    BM25,
    HYBRID_EQUAL,
    HYBRID_TUNED,
    MEASURE,
    TUNED,
    Evaluation,
)
from llama_index_ace_finetune.evaluation.stats.paired import SIGNIFICANT, PairedDifference, paired_difference
from llama_index_ace_finetune.ranking.fusion_settings import FusionSettings

RULE = (
    "The system is selected on the dev queries only. The test queries confirm it if it is a significant gain in "
    f"{MEASURE} against the base model and, if it needs the tuned model, against the best system that does not, "
    f"including BM25 only and equal fusion. {SIGNIFICANT} If such an interval is below zero, a simpler system is "
    "served instead."
)
KNOWN_RULE = (
    "This decision is made on queries about new memories, of which nothing was trained on; new queries about known "
    "memories are measured beside it."
)
ON_SYNTHETIC = "MEASURED ON SYNTHETIC QUERIES ONLY: "


@dataclass(frozen=True)
class Alternative:
    """A system that may be served instead of the selected one: in words, and as settings for a retriever."""

    description: str
    serving: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """Which system to serve, and why.

    Attributes:
        system: the system selected on dev.
        ship_tuned: whether it needs the tuned model.
        confirmed: whether test confirms it by the rule.
        sentence: the verdict in one sentence.
        rule: the meaning of "confirmed", and how training selected its weights.
        best_untuned: the best system on test that does not need the tuned model.
        against_base: paired difference to the base model in MRR@10; None if the system is the base.
        against_untuned: paired difference to `best_untuned`; None if that is the system.
        serving: settings for a retriever: the vectors to search ("model" or "base") and the fusion weights, those of
            `system` unless test rejects it; and the weights for the base model as the fallback.
        instead: what a rejected system is replaced by: the untuned system selected on dev, then the base.
        warnings: further notes for the user.
        contributions: what tuning and each leg of `system` add to MRR@10 on dev (`contributions`).
    """

    system: SystemSelection
    ship_tuned: bool
    confirmed: bool
    sentence: str
    rule: str
    best_untuned: str
    against_base: PairedDifference | None
    against_untuned: PairedDifference | None
    serving: Mapping[str, Any]
    instead: tuple[Alternative, ...] = ()
    warnings: tuple[str, ...] = ()
    contributions: Mapping[str, float] = field(default_factory=dict)


def reach_verdict(
    evaluation: Evaluation, selection: Mapping[str, Any] | None, *, refit: Mapping[str, Any] | None = None
) -> Verdict:
    """Return the verdict.

    Args:
        evaluation: of all systems.
        selection: the record, in the model folder, of how its weights were selected on dev.
        refit: the record of a refit that ships in their place; None without one.
    """
    tuned = selection is None or selection.get("shipped") == "finetuned"
    system = select_system(evaluation, tuned=tuned)
    untuned = [one.name for one in evaluation.systems if not one.trained]
    best = max(untuned, key=lambda name: evaluation.mean(name, MEASURE))
    against_base = _difference_to(evaluation, system.name, BASE)
    against_best = _difference_to(evaluation, system.name, best)
    compared = [against_base] + ([against_best] if system.trained else [])
    confirmed = all(one is not None and one.is_gain for one in compared)
    served = _system_to_serve(evaluation, system, compared)
    parts = _contributions(evaluation, tuned)
    choice = selection.get("rule", "") if selection else "No dev selection is recorded with this model."
    return Verdict(
        system=system,
        ship_tuned=system.trained,
        confirmed=confirmed,
        sentence=_on_synthetic_queries(evaluation)
        + _sentence(evaluation, system, served, tuned, best, against_base, against_best)
        + _parts(parts if served == system else {})
        + _on_known(evaluation, served)
        + (on_refit(refit) if refit and served.trained else ""),
        rule=" ".join([RULE, *([KNOWN_RULE] if evaluation.known else []), *([f"Weights: {choice}"] if choice else [])]),
        best_untuned=best,
        against_base=against_base,
        against_untuned=against_best,
        serving=_serving(evaluation, served, tuned),
        instead=tuple(Alternative(str(one), _serving(evaluation, one, tuned)) for one in _alternatives(evaluation)),
        warnings=(*_warnings(evaluation, system, best, against_best), *evaluation.notes),
        contributions=parts,
    )


def _serving(evaluation: Evaluation, served: SystemSelection, tuned: bool) -> dict[str, Any]:
    """Return the serving record; "fusion" and "baseline_fusion" are null if RRF by the weights gives the same."""
    base = selection_of(evaluation, evaluation.fallback_choice) if served.trained else served
    fusion, baseline = (None if one.serves_by_rank else serving_settings(one.fusion) for one in (served, base))
    pooling = evaluation.token_pooling.get(served.embedding, 1) if "late" in served.fusion.weights else 1
    return {
        "system": served.name,
        # If training kept the base, the model folder contains it.
        "vectors": "base" if tuned and served.embedding == "base" else "model",
        "weights": list(served.weights),
        "baseline_weights": list(base.weights),
        "fusion": fusion,
        "baseline_fusion": baseline,
        **({"windows": True} if served.windows else {}),
        **({"token_pooling": pooling} if pooling > 1 else {}),
        **({"known_query_weight": served.known_query_weight} if served.known_query_weight else {}),
        **({} if served.known_query_offset is None else {"known_query_offset": served.known_query_offset}),
    }


def _contributions(evaluation: Evaluation, tuned: bool) -> dict[str, float]:
    choice = evaluation.choice if tuned else evaluation.untuned_choice
    if len(choice.values) < MIN_QUERIES:
        return {}
    return contributions(evaluation.candidates, choice)


def _on_synthetic_queries(evaluation: Evaluation) -> str:
    """Return the first words of a verdict that rests on no query of a user."""
    asked = [metadata for metadata in evaluation.metadata.values() if SYNTHETIC not in metadata]
    return "" if asked or not evaluation.metadata else ON_SYNTHETIC


def _parts(parts: Mapping[str, float]) -> str:
    if not parts:
        return ""
    named = [f"{name} {gain:+.3f}" for name, gain in parts.items()]
    listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return f" Each part adds to {MEASURE} on dev: {listed}."


def _on_known(evaluation: Evaluation, served: SystemSelection) -> str:
    """Return what the served system does on new queries about known memories; "" without such queries."""
    known = evaluation.known
    if known is None:
        return ""
    of = f" On {len(known.data.queries)} new queries about known memories: {MEASURE} {known.mean(BASE, MEASURE):.3f}"
    if served.name == BASE:
        return f"{of}."
    difference = known.difference(served.name, MEASURE)
    return f"{of} -> {known.mean(served.name, MEASURE):.3f}, {difference} against the base model."


def on_refit(refit: Mapping[str, Any]) -> str:
    """Return which weights the figures are of, where the tuned model was trained once more after the selection."""
    if refit["on"] == "all":
        return (
            " These figures are of the weights that were trained without dev and test queries; the model that is "
            "served was then trained on every query and was not measured itself."
        )
    return (
        " The tuned model was trained on the dev queries too, and test measured these very weights; figures on dev are "
        "of the weights that were selected before."
    )


def _difference_to(evaluation: Evaluation, name: str, other: str) -> PairedDifference | None:
    if name == other:
        return None
    if other == BASE:
        return evaluation.difference(name)
    values = evaluation.values
    return paired_difference(values[name][MEASURE], values[other][MEASURE], groups=evaluation.data.groups)


def _system_to_serve(
    evaluation: Evaluation, system: SystemSelection, compared: Sequence[PairedDifference | None]
) -> SystemSelection:
    """The system selected on dev, or a simpler one if test shows it to be significantly worse.

    Test only rejects, it does not select: the first alternative is the untuned system selected on dev, then the base.
    """
    if not any(one is not None and one.high < 0 for one in compared):
        return system
    ahead = (
        one
        for one in _alternatives(evaluation)
        if evaluation.mean(one.name, MEASURE) > evaluation.mean(system.name, MEASURE)
    )
    return next(ahead, system)


def _alternatives(evaluation: Evaluation) -> tuple[SystemSelection, SystemSelection]:
    """Return what is served if the selected system is rejected: the untuned system selected on dev, then the base."""
    return (
        select_system(evaluation, tuned=False),
        SystemSelection(
            BASE,
            "base",
            (1.0, 0.0),
            FusionSettings(kind="convex", weights={"dense": 1.0}),
            "test rejected the others",
            {},
        ),
    )


def _sentence(
    evaluation: Evaluation,
    system: SystemSelection,
    served: SystemSelection,
    tuned: bool,
    best: str,
    against_base: PairedDifference | None,
    against_best: PairedDifference | None,
) -> str:
    if against_base is None:
        losers = "neither tuning nor another leg" if not tuned else "neither the tuned model nor another leg"
        why = f"{losers} beat it on the dev queries" if len(evaluation.choice.values) else system.reason
        return f"KEEP THE BASE MODEL AS IT IS: {why}."
    return outcome_sentence(
        Outcome(
            described=str(system),
            embedding=system.embedding,
            instead="" if served == system else str(served),
            tuned=tuned,
            best_untuned=best,
            means={name: evaluation.mean(name, MEASURE) for name in (BASE, best)},
            mean=evaluation.mean(system.name, MEASURE),
            against_base=against_base,
            against_untuned=against_best,
            queries=f"on {len(evaluation.data.queries)} held-out queries",
        )
    )


def _warnings(
    evaluation: Evaluation, system: SystemSelection, best: str, against_best: PairedDifference | None
) -> list[str]:
    def mean(name: str) -> float:
        return evaluation.mean(name, MEASURE)

    served = mean(system.name)
    warnings = []
    if against_best is not None and mean(best) > served:
        warnings.append(
            f"{best}, which needs no training, has a higher {MEASURE} on test than the system selected on dev "
            f"({mean(best):.3f} against {served:.3f})."
        )
    if mean(BM25) > served and best != BM25:
        warnings.append(
            f"BM25 has a higher {MEASURE} on test than the system selected on dev "
            f"({mean(BM25):.3f} against {served:.3f})."
        )
    if system.trained and system.name != TUNED and mean(TUNED) > served:
        warnings.append(
            f"Dense only, the tuned model has a higher {MEASURE} on test than its hybrid "
            f"({mean(TUNED):.3f} against {served:.3f})."
        )
    if system.name == TUNED and mean(HYBRID_EQUAL) > served:
        warnings.append(
            f"Fused with BM25 at equal weights the tuned model has {MEASURE} {mean(HYBRID_EQUAL):.3f} on test, "
            f"without BM25 {served:.3f}; the dev queries did not show that."
        )
    if system.name in (TUNED, HYBRID_TUNED) and _is_significant_loss(evaluation, HYBRID_EQUAL, system.name):
        warnings.append(
            f"Equal weights would cost {served - mean(HYBRID_EQUAL):.3f} of {MEASURE}: do not fuse this model with "
            "BM25 by unweighted RRF."
        )
    note = evaluation.comparisons[MEASURE].note
    return [*warnings, note] if note else warnings


def _is_significant_loss(evaluation: Evaluation, name: str, other: str) -> bool:
    difference = _difference_to(evaluation, name, other)
    return difference is not None and difference.high < 0
