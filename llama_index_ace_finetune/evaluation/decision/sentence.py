"""The sentence of a verdict, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llama_index_ace_finetune.evaluation.choosing.structures import Embedding
from llama_index_ace_finetune.evaluation.result import BASE, MEASURE
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was measured of a system that dev selected, and that is not the base itself.

    Attributes:
        described: the system in words.
        embedding: the model of its dense leg; "none" for lexical legs only.
        instead: the system that is served instead, in words; empty if none is.
        tuned: whether training selected tuned weights.
        best_untuned: the best system that does not need the tuned model.
        means: MRR@10 of the base and of `best_untuned`.
        mean: MRR@10 of the system.
        against_base: paired difference to the base.
        against_untuned: paired difference to `best_untuned`; None if that is the system.
        queries: on which all this was measured, such as "on 20 held-out queries".
    """

    described: str
    embedding: Embedding
    instead: str
    tuned: bool
    best_untuned: str
    means: Mapping[str, float]
    mean: float
    against_base: PairedDifference
    against_untuned: PairedDifference | None
    queries: str

    @property
    def over_base(self) -> str:
        """The means of base and system, and their difference."""
        is_best = ", the best system without training," if self.best_untuned == BASE else ""
        means = f"{MEASURE} {self.means[BASE]:.3f} -> {self.mean:.3f}"
        return f"{means}, {self.against_base} against the base model{is_best} {self.queries}"


def outcome_sentence(found: Outcome) -> str:
    """Return the verdict on a system in one sentence."""
    if found.embedding != "tuned":
        return _of_untuned(found)
    instead = f"; served instead: {found.instead}" if found.instead else ""
    against_base, against_best = found.against_base, found.against_untuned
    if against_base.high < 0:
        return f"DO NOT SHIP: {found.described} won on dev but is worse on test: {found.over_base}{instead}."
    if against_best is not None and against_best.high < 0:
        return (
            f"DO NOT SHIP: {found.best_untuned}, which needs no training, is better than {found.described}: {MEASURE} "
            f"{found.means[found.best_untuned]:.3f} against {found.mean:.3f}, difference {against_best} "
            f"{found.queries}{instead}."
        )
    if not against_base.is_gain:
        return (
            f"SHIP WITH CARE, since test does not confirm that {found.described} is better than the base model "
            f"({against_base.not_a_gain}), though it won on dev: {found.over_base}."
        )
    if found.best_untuned == BASE or against_best is None:
        return f"SHIP {found.described.upper()}: {found.over_base}."
    if not against_best.is_gain:
        return (
            f"SHIP WITH CARE, since test does not confirm that {found.described} is better than {found.best_untuned}, "
            f"which needs no training ({against_best.not_a_gain}): {against_best}. It is better than the base model: "
            f"{found.over_base}."
        )
    return (
        f"SHIP {found.described.upper()}: {found.over_base}, and {against_best} against the best system without "
        f"training, {found.best_untuned}."
    )


def _of_untuned(found: Outcome) -> str:
    if found.instead:
        return (
            f"KEEP THE BASE MODEL AS IT IS: {found.described} won on the dev queries but is worse on test: "
            f"{found.over_base}."
        )
    why = "it is better than tuning on dev" if found.tuned else "tuning did not beat the base model on the dev queries"
    head = (
        f"USE {found.described.upper()}"
        if found.embedding == "none"
        else f"KEEP THE BASE MODEL, SERVED AS {found.described.upper()}"
    )
    return f"{head}: {why}; {found.over_base}."
