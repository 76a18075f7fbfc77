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
from llama_index_ace_finetune.evaluation.fusion_weights import (
    EQUAL,
    MIN_QUERIES,
    ROUNDING,
    FusionChoice,
    standard_error,
)
from llama_index_ace_finetune.evaluation.stats.groups import number_groups

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
    the one that needs less.

    With fewer than 40 dev queries the model that the training chose is taken alone, as a model served before there was
    a hybrid; BM25 joins it, at equal weight, only if that gains more on them than one standard error.

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
        return _with_few_queries(evaluation, "tuned" if tuned else "base", count)
    means = {name: round(float(evaluation.dev_values[name].mean()), 6) for _, name, _ in candidates}
    embedding, name, weights = max(candidates, key=lambda one: means[one[1]])
    others = ", ".join(f"{other} {mean:.3f}" for other, mean in means.items() if other != name)
    reason = f"largest {MEASURE} on {count} dev queries: {name} {means[name]:.3f}" + (f" ({others})" if others else "")
    return Choice(name, embedding, weights, reason, means)


def _with_few_queries(evaluation: Evaluation, embedding: Literal["tuned", "base"], count: int) -> Choice:
    # Equal weights gain as much on some sets as they cost on others. On 20 queries at a time, drawn from three sets,
    # the sign of the difference and its standard error gave the same mean, and this a third of the losses.
    alone, fused = (TUNED, HYBRID_EQUAL) if embedding == "tuned" else (BASE, HYBRID_BASE)
    few = f"{count} dev queries are too few to choose weights on"
    if not count:
        return Choice(alone, embedding, (1.0, 0.0), few, {})
    values = evaluation.dev_values
    means = {name: round(float(values[name].mean()), 6) for name in (alone, fused)}
    gains = values[fused] - values[alone]
    gain, error = float(gains.mean()), standard_error(gains, number_groups(evaluation.dev_groups or None, count))
    reason = f"{few}; BM25 at equal weight changes {MEASURE} there by {gain:+.3f} +- {error:.3f}"
    if gain > error + ROUNDING:
        return Choice(fused, embedding, (EQUAL, EQUAL), reason, means)
    return Choice(alone, embedding, (1.0, 0.0), reason, means)


def _fused(embedding: Literal["tuned", "base"], fusion: FusionChoice) -> tuple[Embedding, str, tuple[float, float]]:
    dense, _ = fusion.weights
    alone, equal, weighted = (
        (TUNED, HYBRID_EQUAL, HYBRID_TUNED) if embedding == "tuned" else (BASE, HYBRID_BASE, HYBRID_BASE_WEIGHTED)
    )
    if dense == 0:
        return ("none", BM25, (0.0, 1.0))
    name = alone if dense == 1 else equal if dense == EQUAL else weighted
    return (embedding, name, fusion.weights)
