"""The one system that dev chooses: which embedding, which legs, which weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llama_index_ace_finetune.evaluation.evaluate import (
    BASE,
    BM25,
    HYBRID_BASE,
    HYBRID_BASE_WEIGHTED,
    HYBRID_EQUAL,
    HYBRID_TUNED,
    MEASURE,
    TRAINED,
    TUNED,
    Evaluation,
)
from llama_index_ace_finetune.evaluation.fusion_tuning import MIN_QUERIES, FusionChoice
from llama_index_ace_finetune.evaluation.weight_choice import EQUAL

Embedding = Literal["tuned", "base", "none"]


@dataclass(frozen=True)
class Choice:
    """A system that the hybrid retriever can serve.

    Attributes:
        name: of the system in the evaluation.
        embedding: whose vectors the dense leg searches; "none" where BM25 serves alone.
        weights: of the dense and the BM25 leg under RRF.
        reason: what it was chosen on.
        dev_means: MRR@10 on dev of the systems it was chosen from; empty where dev was too small to choose on.
    """

    name: str
    embedding: Embedding
    weights: tuple[float, float]
    reason: str
    dev_means: Mapping[str, float]

    @property
    def trained(self) -> bool:
        """Whether the system needs the tuned model."""
        return self.name in TRAINED

    def __str__(self) -> str:
        if self.embedding == "none":
            return "BM25 alone"
        dense, lexical = self.weights
        if not lexical:
            return f"the {self.embedding} model alone"
        weights = "equal weights" if dense == lexical else f"weights {dense:g} : {lexical:g}"
        return f"the {self.embedding} model with BM25 ({weights})"


def choose_system(evaluation: Evaluation, *, tuned: bool) -> Choice:
    """Choose on dev what to serve.

    Each model's weights against BM25 are those that `tune_fusion` chose, which may drop a leg. Of the tuned model so
    fused, the base model so fused, and BM25 alone, the one with the largest mean MRR@10 on dev is taken, where equal
    the one that needs less. With fewer than 40 dev queries nothing is chosen on them: the model that the training
    chose is taken, fused with equal weights.

    Args:
        evaluation: of all systems.
        tuned: whether the training chose tuned weights; without, the tuned model is the base.
    """
    untuned = _fused("base", evaluation.base_fusion)
    candidates = [("none", BM25, (0.0, 1.0)), untuned]
    if tuned:
        candidates.append(_fused("tuned", evaluation.fusion))
    count = len(evaluation.dev_values.get(BASE, ()))
    if count < MIN_QUERIES:
        embedding, name, weights = candidates[-1]
        return Choice(name, embedding, weights, f"{count} dev queries are too few to choose on", {})
    means = {name: round(float(evaluation.dev_values[name].mean()), 6) for _, name, _ in candidates}
    embedding, name, weights = max(candidates, key=lambda one: means[one[1]])
    others = ", ".join(f"{other} {mean:.3f}" for other, mean in means.items() if other != name)
    reason = f"largest {MEASURE} on {count} dev queries: {name} {means[name]:.3f}" + (f" ({others})" if others else "")
    return Choice(name, embedding, weights, reason, means)


def _fused(embedding: Literal["tuned", "base"], fusion: FusionChoice) -> tuple[Embedding, str, tuple[float, float]]:
    dense, _ = fusion.weights
    alone, equal, weighted = (
        (TUNED, HYBRID_EQUAL, HYBRID_TUNED) if embedding == "tuned" else (BASE, HYBRID_BASE, HYBRID_BASE_WEIGHTED)
    )
    if dense == 0:
        return ("none", BM25, (0.0, 1.0))
    name = alone if dense == 1 else equal if dense == EQUAL else weighted
    return (embedding, name, fusion.weights)
