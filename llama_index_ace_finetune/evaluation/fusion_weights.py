"""The fusion weights of one embedding model and BM25, as a report shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import MIN_QUERIES


@dataclass(frozen=True)
class FusionChoice:
    """Weights (dense, lexical) that sum to 1, the reason for them, and dev MRR@10 per dense weight of the grid."""

    weights: tuple[float, float]
    reason: str
    curve: dict[float, float] = field(default_factory=dict)


def fusion_choice(candidate: Candidate, row: int) -> FusionChoice:
    """Describe the selected weights of a model and BM25: a row of the candidate's grid."""
    structure, count = candidate.structure, candidate.values.shape[1]
    dense, lexical = structure.grid[row]
    if count < MIN_QUERIES:
        neutral = "equal" if dense == lexical else f"dense weight {dense:g}"
        return FusionChoice((dense, lexical), f"{neutral}, as {count} dev queries are too few to select weights on")
    means = candidate.values.mean(axis=1)
    curve = {weights[0]: round(float(mean), 4) for weights, mean in zip(structure.grid, means, strict=True)}
    reason = (
        f"dense weight {dense:g} by MRR@10 on {count} dev queries (best {structure.grid[int(means.argmax())][0]:g}; "
        f"nearest to {structure.neutral[0]:g} within half a standard error)"
    )
    return FusionChoice((dense, lexical), reason, dict(sorted(curve.items())))
