"""Hybrid search over one store: both legs, their fusion, and the ladder of fallbacks."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import QueryBundle

from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, StoreError
from llama_index_ace_finetune.ranking.fusion import RRF_K, reciprocal_rank_fusion
from llama_index_ace_finetune.retrievers.legs import LegHit, LexicalLeg, ranked
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory, ServedBy
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore

logger = logging.getLogger(__name__)

Mode = Literal["hybrid", "dense", "sparse"]
Fallback = Literal["baseline", "off"]
LEXICAL: Final = "lexical"
_OVERSAMPLING = 3


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of one search; see `FineTunedHybridRetriever` for what they mean."""

    top_k: int = 10
    dense_top_k: int | None = None
    sparse_top_k: int | None = None
    rrf_k: int = RRF_K
    weights: tuple[float, float] = (1.0, 1.0)
    threshold: float | None = None
    mode: Mode = "hybrid"

    def __post_init__(self) -> None:
        if self.mode not in ("hybrid", "dense", "sparse"):
            raise AceFinetuneError(f"The search mode is {self.mode!r}; it must be hybrid, dense or sparse.")
        if len(self.weights) != 2 or min(self.weights) < 0 or max(self.weights) <= 0:
            raise AceFinetuneError(f"The leg weights are {self.weights!r}; give two numbers of 0 or more, one above 0.")
        if self.rrf_k < 0:
            raise AceFinetuneError(f"The constant rrf_k is {self.rrf_k}; it must be 0 or more.")
        if self.top_k < 1:
            raise AceFinetuneError(f"The number of results is {self.top_k}; it must be at least 1.")

    def depth(self, configured: int | None) -> int:
        """Hits to take from a leg."""
        return max(configured or _OVERSAMPLING * self.top_k, self.top_k)

    def leg_weights(self, served_by: ServedBy) -> tuple[float, float]:
        """Weights (dense, BM25) given what served: a leg that did not run must not scale the scores down."""
        if self.mode == "sparse" or served_by == LEXICAL:
            return (0.0, 1.0)
        return (1.0, 0.0) if self.mode == "dense" else self.weights


class HybridSearch:
    """The legs over a store, and which model serves the dense one.

    `served` counts what served each search: "finetuned", "baseline" or "lexical".
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        embed_model: BaseEmbedding | None,
        baseline_model: BaseEmbedding | None = None,
        fallback: Fallback = "baseline",
    ) -> None:
        if fallback not in ("baseline", "off"):
            raise AceFinetuneError(f"The fallback is {fallback!r}; it must be baseline or off.")
        self.store = store
        self.fallback: Fallback = fallback
        self.served: Counter[str] = Counter()
        self._counting = threading.Lock()
        candidates: tuple[tuple[ServedBy, BaseEmbedding | None], ...] = (
            (FINETUNED, embed_model),
            (BASELINE, baseline_model),
        )
        self._models = {name: model for name, model in candidates if model is not None and self._fits(name, model)}
        self._lexical = LexicalLeg(store)
        if fallback == "off" and FINETUNED not in self._models:
            raise ModelError("The tuned model is not available and the fallback is off; give its folder.")

    def run(self, bundle: QueryBundle, settings: SearchSettings) -> list[RetrievedMemory]:
        """Search; an empty list means that nothing matched."""
        dense, served_by = self._dense(bundle, settings)
        return self._results(dense, self._sparse(bundle, settings), served_by, settings)

    async def arun(self, bundle: QueryBundle, settings: SearchSettings) -> list[RetrievedMemory]:
        """`run` with both legs at the same time, off the event loop."""
        (dense, served_by), sparse = await asyncio.gather(
            asyncio.to_thread(self._dense, bundle, settings), asyncio.to_thread(self._sparse, bundle, settings)
        )
        return await asyncio.to_thread(self._results, dense, sparse, served_by, settings)

    def embed(self, text: str) -> list[float]:
        """Return the query vector of the model that serves: the tuned one, else the baseline."""
        for model in self._models.values():
            return model.get_query_embedding(text)
        raise ModelError("Neither the tuned model nor the baseline is available; the log gives the reasons.")

    def close(self) -> None:
        """Release the store."""
        self.store.close()

    def _fits(self, name: str, model: BaseEmbedding) -> bool:
        """Whether the model is the one that the store's vectors were made with."""
        space = self.store.spaces.get(name)
        fingerprint = getattr(model, "fingerprint", None)
        if space is not None and fingerprint in (None, space.fingerprint):
            return True
        message = (
            f"The model {model.model_name!r} is not the one that the {name} vectors in {self.store.where} "
            "were made with; build the index again with `ace-finetune index`, or give that model."
        )
        if name == FINETUNED and self.fallback == "off":
            raise StoreError(message)
        logger.warning("%s", message)
        return False

    def _dense(self, bundle: QueryBundle, settings: SearchSettings) -> tuple[list[LegHit], ServedBy]:
        if settings.mode == "sparse":
            return [], LEXICAL
        if not bundle.query_str.strip():
            return [], FINETUNED if FINETUNED in self._models else BASELINE
        for name, model in self._models.items():
            if name == BASELINE and self.fallback == "off":
                continue
            try:
                # Embedded here per model: a vector in the caller's bundle would be of an unknown space.
                vector = model.get_agg_embedding_from_queries(bundle.embedding_strs)
                hits = self.store.search(name, vector, settings.depth(settings.dense_top_k))
            except Exception as error:
                if self.fallback == "off":
                    raise
                logger.warning("the %s leg failed and is skipped: %s", name, error)
                continue
            floor = settings.threshold if settings.threshold is not None else float("-inf")
            return ranked([hit for hit in hits if hit[1] >= floor]), name
        if settings.mode == "dense":
            raise ModelError("Neither the tuned model nor the baseline can serve; the log gives the reasons.")
        return [], LEXICAL

    def _sparse(self, bundle: QueryBundle, settings: SearchSettings) -> list[LegHit]:
        if settings.mode == "dense" or not bundle.query_str.strip():
            return []
        return self._lexical.search(bundle.query_str, settings.depth(settings.sparse_top_k))

    def _results(
        self, dense: list[LegHit], sparse: list[LegHit], served_by: ServedBy, settings: SearchSettings
    ) -> list[RetrievedMemory]:
        with self._counting:
            self.served[served_by] += 1
        ids = sorted({hit.node_id for hit in [*dense, *sparse]})
        row = {node_id: number for number, node_id in enumerate(ids)}
        legs = [{hit.node_id: hit for hit in leg} for leg in (dense, sparse)]
        fused = reciprocal_rank_fusion(
            [[row[hit.node_id] for hit in dense], [row[hit.node_id] for hit in sparse]],
            weights=settings.leg_weights(served_by),
            k=settings.rrf_k,
            limit=settings.top_k,
        )
        nodes = self.store.get([ids[hit.row] for hit in fused])
        results = []
        for hit in fused:
            node = nodes.get(ids[hit.row])
            if node is None:
                continue  # Deleted between the search and now.
            in_dense, in_sparse = (leg.get(node.node_id) for leg in legs)
            own = {"hybrid": None, "dense": in_dense, "sparse": in_sparse}[settings.mode]
            results.append(
                RetrievedMemory(
                    node=node,
                    score=own.score if own else hit.scaled,
                    served_by=served_by,
                    rrf_score=hit.score,
                    scaled_score=hit.scaled,
                    dense_score=in_dense.score if in_dense else None,
                    dense_rank=in_dense.rank if in_dense else None,
                    sparse_score=in_sparse.score if in_sparse else None,
                    sparse_rank=in_sparse.rank if in_sparse else None,
                )
            )
        return results
