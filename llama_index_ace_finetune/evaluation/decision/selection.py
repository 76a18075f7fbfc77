"""Select the system to serve on dev: embedding model, legs and fusion weights."""

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
class SystemSelection:
    """The selected system, which the hybrid retriever can serve.

    Attributes:
        name: of the system in the evaluation.
        embedding: the model of the dense leg; "none" for BM25 only.
        weights: RRF weights of the dense and the BM25 leg.
        reason: why it was selected.
        dev_means: MRR@10 on dev of the candidates; empty without dev queries.
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
            return "BM25 only"
        dense, lexical = self.weights
        if not lexical:
            return f"the {self.embedding} model (dense only)"
        weights = "equal weights" if dense == lexical else f"weights {dense:g} : {lexical:g}"
        return f"the {self.embedding} model with BM25 ({weights})"


def select_system(evaluation: Evaluation, *, tuned: bool) -> SystemSelection:
    """Select on dev the system to serve.

    The candidates are the tuned model and the base model, each fused with BM25 by the weights of `tune_fusion` (which
    may drop a leg), and BM25 only. The one with the highest mean MRR@10 on dev is selected, on a tie the simpler one.

    With fewer than 40 dev queries the model that training selected is used without BM25; BM25 is added, at equal
    weight, only if that gains more than one standard error on these queries.

    Args:
        evaluation: of all systems.
        tuned: whether training selected tuned weights; if not, the tuned model is the base model.
    """
    untuned = _tuned_hybrid("base", evaluation.base_fusion)
    candidates = [("none", BM25, (0.0, 1.0)), untuned]
    if tuned:
        candidates.append(_tuned_hybrid("tuned", evaluation.fusion))
    count = len(evaluation.dev_values.get(BASE, ()))
    if count < MIN_QUERIES:
        return _select_on_few_queries(evaluation, "tuned" if tuned else "base", count)
    means = {name: round(float(evaluation.dev_values[name].mean()), 6) for _, name, _ in candidates}
    embedding, name, weights = max(candidates, key=lambda one: means[one[1]])
    others = ", ".join(f"{other} {mean:.3f}" for other, mean in means.items() if other != name)
    reason = f"highest {MEASURE} on {count} dev queries: {name} {means[name]:.3f}" + (f" ({others})" if others else "")
    return SystemSelection(name, embedding, weights, reason, means)


def _select_on_few_queries(evaluation: Evaluation, embedding: Literal["tuned", "base"], count: int) -> SystemSelection:
    # Equal weights help on some datasets and hurt on others. On samples of 20 queries from three datasets, requiring
    # one standard error gave the same mean as requiring a positive difference, with a third of the losses.
    dense_only, fused = (TUNED, HYBRID_EQUAL) if embedding == "tuned" else (BASE, HYBRID_BASE)
    few = f"{count} dev queries are too few to select weights on"
    if not count:
        return SystemSelection(dense_only, embedding, (1.0, 0.0), few, {})
    values = evaluation.dev_values
    means = {name: round(float(values[name].mean()), 6) for name in (dense_only, fused)}
    gains = values[fused] - values[dense_only]
    gain, error = float(gains.mean()), standard_error(gains, number_groups(evaluation.dev_groups or None, count))
    reason = f"{few}; BM25 at equal weight changes {MEASURE} there by {gain:+.3f} +- {error:.3f}"
    if gain > error + ROUNDING:
        return SystemSelection(fused, embedding, (EQUAL, EQUAL), reason, means)
    return SystemSelection(dense_only, embedding, (1.0, 0.0), reason, means)


def _tuned_hybrid(
    embedding: Literal["tuned", "base"], fusion: FusionChoice
) -> tuple[Embedding, str, tuple[float, float]]:
    dense, _ = fusion.weights
    dense_only, equal, weighted = (
        (TUNED, HYBRID_EQUAL, HYBRID_TUNED) if embedding == "tuned" else (BASE, HYBRID_BASE, HYBRID_BASE_WEIGHTED)
    )
    if dense == 0:
        return ("none", BM25, (0.0, 1.0))
    name = dense_only if dense == 1 else equal if dense == EQUAL else weighted
    return (embedding, name, fusion.weights)
