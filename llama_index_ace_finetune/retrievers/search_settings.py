"""SearchSettings: the validated settings of a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from qdrant_client import models

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import FUSION_DEPTH, RRF_K
from llama_index_ace_finetune.retrievers.retrieved_memory import ServedBy
from llama_index_ace_finetune.stores.memory_store import BASELINE
from llama_index_ace_finetune.stores.qdrant.filters import Filters, qdrant_filter

Mode = Literal["hybrid", "dense", "sparse"]
LEXICAL: Final = "lexical"


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of one search; see `SearchOptions` for their meaning."""

    top_k: int = 10
    dense_top_k: int | None = None
    sparse_top_k: int | None = None
    rrf_k: int = RRF_K
    weights: tuple[float, float] = (1.0, 1.0)
    baseline_weights: tuple[float, float] | None = None
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

    def leg_weights(self, served_by: ServedBy) -> tuple[float, float]:
        """Return the weights (dense, BM25) by what served; a leg that did not run gets 0, so scores still reach 1."""
        if self.mode == "sparse" or served_by == LEXICAL:
            return (0.0, 1.0)
        if self.mode == "dense":
            return (1.0, 0.0)
        return (served_by == BASELINE and self.baseline_weights) or self.weights
