"""FusionSettings: which legs a served system has, and how their results are fused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import FUSION_DEPTH

Leg = Literal["dense", "base", "bm25", "bm25_unstemmed", "char_ngrams", "sparse", "late"]
"""A retriever of a hybrid: "dense" is the served embedding model, "base" the base model beside a tuned one, "sparse" a
learned sparse encoder, and "late" late interaction (MaxSim), which only scores the hits of the other legs."""
FusionKind = Literal["rrf", "convex"]
LEGS: Final = get_args(Leg)
RERANKING_LEGS: Final = frozenset({"late"})
"""Legs that score the hits of the others and retrieve none."""


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """Legs, weights and fusion method of one system.

    Attributes:
        kind: "convex": the weighted sum of normalised scores (`CandidateScores.fuse`); "rrf": of reciprocal ranks.
        weights: above 0, of the legs that the system uses.
        depth: how many hits of each leg become candidates.
    """

    kind: FusionKind = "rrf"
    weights: Mapping[Leg, float] = field(default_factory=lambda: {"dense": 0.5, "bm25": 0.5})
    depth: int = FUSION_DEPTH

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for an invalid value."""
        if self.kind not in get_args(FusionKind):
            raise AceFinetuneError(f"The fusion is {self.kind!r}; it must be rrf or convex.")
        unknown = sorted(set(self.weights) - set(LEGS))
        if unknown:
            raise AceFinetuneError(f"The leg {unknown[0]!r} is unknown; the legs are {', '.join(LEGS)}.")
        if not all(0 < weight < math.inf for weight in self.weights.values()):
            raise AceFinetuneError(f"The leg weights are {dict(self.weights)!r}; give each leg a number above 0.")
        if not set(self.weights) - RERANKING_LEGS:
            raise AceFinetuneError("No leg retrieves candidates; give a weight to one besides late interaction.")
        if self.kind == "rrf" and set(self.weights) & RERANKING_LEGS:
            raise AceFinetuneError("Late interaction scores candidates; it needs fusion 'convex', not 'rrf'.")
        if self.depth < 1:
            raise AceFinetuneError(f"The fusion depth is {self.depth}; it must be at least 1.")
