"""The system that was selected on dev, in the words of a verdict and the settings of a retriever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_index_ace_finetune.evaluation.choosing.choose import MIN_QUERIES, Choice
from llama_index_ace_finetune.evaluation.choosing.structures import LEG_NAMES, Embedding
from llama_index_ace_finetune.evaluation.result import MEASURE, Evaluation
from llama_index_ace_finetune.ranking.fusion_settings import FusionSettings


@dataclass(frozen=True)
class SystemSelection:
    """The selected system, which the hybrid retriever can serve.

    Attributes:
        name: of the system in the evaluation.
        embedding: the model of the dense leg; "none" for lexical legs only.
        weights: RRF weights of the dense and the BM25 leg; of a system that is fused by score, those that a retriever
            without score fusion would use.
        fusion: legs, weights and fusion method.
        reason: why it was selected.
        dev_means: MRR@10 on dev of the candidates; empty without dev queries.
        known_query_offset: what is taken off the cosine with a known query, if known queries are further vectors of
            their memories; None if they are not.
        windows: whether windows of long texts are further vectors of their memories.
        known_query_weight: of known queries in BM25; 0 if BM25 reads the texts only.
    """

    name: str
    embedding: Embedding
    weights: tuple[float, float]
    fusion: FusionSettings
    reason: str
    dev_means: Mapping[str, float]
    known_query_offset: float | None = None
    windows: bool = False
    known_query_weight: int = 0

    @property
    def trained(self) -> bool:
        """Whether the system needs the tuned model."""
        return self.embedding == "tuned"

    @property
    def serves_by_rank(self) -> bool:
        """Whether RRF of the dense leg and BM25, of which one may have weight 0, gives the same ranking."""
        legs = set(self.fusion.weights)
        return legs <= {"dense", "bm25"} and (self.fusion.kind == "rrf" or len(legs) == 1)

    def __str__(self) -> str:
        used = self.known_query_offset is not None or self.known_query_weight
        return f"{self._legs} with known queries" if used else self._legs

    @property
    def _legs(self) -> str:
        legs = [leg for leg in self.fusion.weights if leg != "dense"]
        others = [LEG_NAMES[leg] for leg in legs]
        if self.embedding == "none":
            return f"{_listed(others)} only"
        model = f"the {self.embedding} model" + (" and windows of long texts" if self.windows else "")
        if not legs:
            return f"{model} (dense only)"
        if self.fusion.kind == "convex":
            return f"{model} with {_listed(others)} (convex)"
        dense, lexical = self.weights
        weights = "equal weights" if dense == lexical else f"weights {dense:g} : {lexical:g}"
        return f"{model} with {_listed(others)} ({weights})"


def select_system(evaluation: Evaluation, *, tuned: bool) -> SystemSelection:
    """Return the system to serve, which `choose` selected on dev among all that can be served.

    With fewer than 40 dev queries it is the model that training selected, with late interaction if that can be served;
    BM25 is added only if that gains more than one standard error on these queries.

    Args:
        evaluation: of all systems.
        tuned: whether training selected tuned weights; if not, only systems without the tuned model are candidates.
    """
    return selection_of(evaluation, evaluation.choice if tuned else evaluation.untuned_choice)


def selection_of(evaluation: Evaluation, choice: Choice) -> SystemSelection:
    """Return a choice as the selection of a system."""
    structure, count = choice.candidate.structure, choice.candidate.values.shape[1]
    if structure.embedding == "none":
        weights = (0.0, 1.0)
    elif structure.legs == ("dense",):
        weights = (1.0, 0.0)
    elif structure.kind == "rrf":
        weights = (structure.grid[choice.row][0], structure.grid[choice.row][1])
    else:
        weights = (evaluation.fusion if structure.trained else evaluation.base_fusion).weights
    return SystemSelection(
        name=choice.system_name,
        embedding=structure.embedding,
        weights=weights,
        fusion=choice.settings,
        reason=_reason(choice, count),
        dev_means=choice.means,
        known_query_offset=choice.offset,
        windows=structure.windows,
        known_query_weight=choice.field_weight,
    )


def serving_settings(settings: FusionSettings) -> dict[str, Any]:
    """Return fusion settings as the JSON values of a serving record."""
    return {"kind": settings.kind, "weights": dict(settings.weights), "depth": settings.depth}


def _reason(choice: Choice, count: int) -> str:
    chosen = choice.known_queries
    known = f"; known queries: {chosen.reason}" if chosen else ""
    field = f"; known queries in BM25: {chosen.bm25.reason}" if chosen and chosen.bm25 else ""
    return f"{_reason_of_legs(choice, count)}{known}{field}"


def _reason_of_legs(choice: Choice, count: int) -> str:
    name = choice.candidate.structure.name
    if count < MIN_QUERIES:
        few = f"{count} dev queries are too few to select a system on"
        if not count:
            return few
        means = ", ".join(f"{other} {mean:.3f}" for other, mean in choice.means.items())
        return f"{few}; {MEASURE} there: {means}; BM25 is added if it gains more than one standard error"
    best = choice.best.structure.name
    mean = f"{MEASURE} {choice.means[name]:.3f} on {count} dev queries"
    if name == best:
        return f"highest {mean} of {len(choice.means)} systems"
    return f"{mean}, the cheapest of {len(choice.means)} within one standard error of {best} ({choice.means[best]:.3f})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
