"""SearchSettings: the validated settings of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from qdrant_client import models

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.further_vectors import LARGEST_OFFSET
from llama_index_ace_finetune.ranking.fusion_settings import FusionKind, FusionSettings, Leg
from llama_index_ace_finetune.ranking.known_field import LARGEST_WEIGHT
from llama_index_ace_finetune.ranking.lexical_indexes import LEXICAL_LEGS
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import FUSION_DEPTH, RRF_K
from llama_index_ace_finetune.retrievers.retrieved_memory import ServedBy
from llama_index_ace_finetune.stores.memory_store import BASELINE
from llama_index_ace_finetune.stores.qdrant.filters import Filters, qdrant_filter

Mode = Literal["hybrid", "dense", "sparse"]
LEXICAL: Final = "lexical"
UNEMBEDDED_LEGS: Final[tuple[Leg, ...]] = (*LEXICAL_LEGS, "sparse")
"""Legs that need no embedding model."""


@dataclass(frozen=True)
class LegWeights:
    """The legs of a search with their weights, and how they are fused."""

    kind: FusionKind
    weights: Mapping[Leg, float]

    @property
    def lexical(self) -> LegWeights:
        """The legs that need no embedding model; BM25 only if none of them needs only the texts."""
        kept: dict[Leg, float] = {
            leg: weight for leg, weight in self.weights.items() if leg in UNEMBEDDED_LEGS and weight > 0
        }
        return LegWeights(self.kind, kept if kept.keys() & set(LEXICAL_LEGS) else {"bm25": 1.0})


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of one search; see `SearchOptions` for their meaning."""

    top_k: int = 10
    dense_top_k: int | None = None
    sparse_top_k: int | None = None
    rrf_k: int = RRF_K
    fusion: FusionKind = "rrf"
    weights: tuple[float, float] = (1.0, 1.0)
    leg_weights: Mapping[Leg, float] | None = None
    baseline_fusion: FusionKind | None = None
    baseline_weights: tuple[float, float] | None = None
    baseline_leg_weights: Mapping[Leg, float] | None = None
    known_query_offset: float | None = None
    known_query_weight: int = 0
    windows: bool = False
    threshold: float | None = None
    mode: Mode = "hybrid"
    filters: Filters | None = None
    node_ids: Sequence[str] | None = None
    doc_ids: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for an invalid value."""
        if self.mode not in ("hybrid", "dense", "sparse"):
            raise AceFinetuneError(f"The search mode is {self.mode!r}; it must be hybrid, dense or sparse.")
        for pair in (self.weights, self.baseline_weights):
            if pair is not None and not (len(pair) == 2 and all(0 <= w < math.inf for w in pair) and any(pair)):
                raise AceFinetuneError(f"The leg weights are {pair!r}; give two numbers of 0 or more, one above 0.")
        _require_fusion(self.fusion, self.leg_weights)
        _require_fusion(self.baseline_fusion or self.fusion, self.baseline_leg_weights)
        offset: Any = self.known_query_offset
        if offset is not None and not (isinstance(offset, int | float) and 0 <= offset <= LARGEST_OFFSET):
            raise AceFinetuneError(
                f"The known_query_offset is {offset!r:.80}; give a cosine from 0 to {LARGEST_OFFSET:g}, or None to "
                "leave known queries out."
            )
        weight: Any = self.known_query_weight
        if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= LARGEST_WEIGHT:
            raise AceFinetuneError(
                f"The known_query_weight is {weight!r:.80}; give a whole number from 0 to {LARGEST_WEIGHT}."
            )
        windows: Any = self.windows
        if not isinstance(windows, bool):
            raise AceFinetuneError(f"The option windows is {windows!r:.80}; it must be True or False.")
        if self.rrf_k < 0:
            raise AceFinetuneError(f"The constant rrf_k is {self.rrf_k}; it must be 0 or more.")
        if self.top_k < 1:
            raise AceFinetuneError(f"The number of results is {self.top_k}; it must be at least 1.")
        for name, depth in (("dense_top_k", self.dense_top_k), ("sparse_top_k", self.sparse_top_k)):
            if depth is not None and depth < 1:
                raise AceFinetuneError(f"The depth {name} is {depth}; it must be at least 1.")
        self.query_filter()

    def query_filter(self) -> models.Filter | None:
        """Return the filter that every result has to match; None without conditions."""
        return qdrant_filter(self.filters, node_ids=self.node_ids, doc_ids=self.doc_ids)

    def depth(self, configured: int | None) -> int:
        """Return the number of hits to take from a leg."""
        return max(configured or (FUSION_DEPTH if self.mode == "hybrid" else 0), self.top_k)

    def legs(self, served_by: ServedBy) -> LegWeights:
        """Return the legs and weights by what serves; without a model, those of the lexical legs."""
        if self.mode == "dense" and served_by != LEXICAL:
            return LegWeights("rrf", {"dense": 1.0, "bm25": 0.0})
        if self.mode == "sparse":
            return LegWeights("rrf", {"dense": 0.0, "bm25": 1.0})
        own = _legs(self.fusion, self.weights, self.leg_weights)
        if served_by == BASELINE:
            kind = self.baseline_fusion or self.fusion
            if self.baseline_leg_weights is not None or self.baseline_weights is not None:
                return _legs(kind, self.baseline_weights or self.weights, self.baseline_leg_weights)
            # "base" would be the same vectors as "dense".
            return _legs(kind, self.weights, _without_base(self.leg_weights))
        return own.lexical if served_by == LEXICAL else own

    def pair(self, served_by: ServedBy | None) -> tuple[float, float]:
        """Return the weights of the dense leg and BM25; None stands for the model to serve."""
        weights = self.legs(served_by or "finetuned").weights
        return weights.get("dense", 0.0), weights.get("bm25", 0.0)

    @property
    def lexical_legs(self) -> list[Leg]:
        """The lexical legs that a search may need before it is known which model serves."""
        if self.mode == "dense":
            return []
        every = [self.legs("finetuned"), self.legs("baseline")]
        found = dict.fromkeys(leg for one in every for leg in one.weights if leg in LEXICAL_LEGS)
        return list(found)


def _legs(kind: FusionKind, pair: tuple[float, float], by_leg: Mapping[Leg, float] | None) -> LegWeights:
    if by_leg is not None:
        return LegWeights(kind, {leg: weight for leg, weight in by_leg.items() if weight > 0})
    return LegWeights(kind, {"dense": pair[0], "bm25": pair[1]})


def _without_base(by_leg: Mapping[Leg, float] | None) -> Mapping[Leg, float] | None:
    if by_leg is None or "base" not in by_leg:
        return by_leg
    kept: dict[Leg, float] = {leg: weight for leg, weight in by_leg.items() if leg != "base"}
    return {**kept, "dense": kept.get("dense", 0.0) + by_leg["base"]}


def _require_fusion(kind: FusionKind, by_leg: Mapping[Leg, float] | None) -> None:
    """Raise AceFinetuneError for an unknown fusion or leg, or weights that are no numbers of 0 or more."""
    if by_leg is None:
        FusionSettings(kind=kind)
        return
    given: Any = by_leg
    if not isinstance(given, Mapping):
        raise AceFinetuneError(f"The leg weights are {given!r:.80}; give a mapping of legs to numbers.")
    for leg, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise AceFinetuneError(f"The weight of the leg {leg!r:.80} is {weight!r:.80}; give a number of 0 or more.")
    FusionSettings(kind=kind, weights={leg: weight for leg, weight in by_leg.items() if weight > 0})
    if by_leg.get("sparse") and not any(by_leg.get(leg) for leg in ("dense", *LEXICAL_LEGS)):
        raise AceFinetuneError("The leg 'sparse' may be skipped; give a weight to the dense leg or a lexical one too.")
