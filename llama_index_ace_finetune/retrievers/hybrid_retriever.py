"""FineTunedHybridRetriever: dense and BM25 legs, fused by RRF, with a visible fallback to the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.ranking.fusion import RRF_K
from llama_index_ace_finetune.retrievers.hybrid_search import Fallback, HybridSearch, Mode, SearchSettings
from llama_index_ace_finetune.retrievers.load_models import load_models
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.stores.build_index import build_index
from llama_index_ace_finetune.stores.memory_store import MemoryStore

DEFAULT_TOP_K = 10


class FineTunedHybridRetriever(BaseRetriever):
    """Retrieve memories by a fine-tuned embedding model and BM25, fused by reciprocal rank fusion.

    Each result's score is the fused score scaled to [0, 1] (1 = first in every leg); in mode "dense" it is the cosine,
    in mode "sparse" the BM25 score. Results are `RetrievedMemory` objects, which also tell what served them
    ("finetuned", "baseline" or "lexical") and each leg's own score and rank; their nodes are as they were indexed.

    An empty list means no hit. A failure is an exception, or, with `fallback="baseline"`, a search in the baseline's
    vectors of the same collection (and by BM25 alone if those fail too), which is logged and counted in `served`.

    Args:
        store: an open memory store.
        embed_model: the model of the store's "finetuned" vectors; None where it could not be loaded.
        baseline_model: the model of its "baseline" vectors.
        similarity_top_k: results.
        dense_top_k: hits taken from the dense leg; three times `similarity_top_k` by default.
        sparse_top_k: hits taken from BM25; likewise.
        rrf_k: constant of RRF.
        weights: of the dense and the BM25 leg.
        threshold: lowest cosine of a dense hit, applied to the dense leg before fusion; none by default.
        mode: "hybrid", "dense" or "sparse".
        fallback: "baseline" or "off".

    Raises:
        StoreError: if the store holds vectors of another model and `fallback` is "off".
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        embed_model: BaseEmbedding | None,
        baseline_model: BaseEmbedding | None = None,
        similarity_top_k: int = DEFAULT_TOP_K,
        dense_top_k: int | None = None,
        sparse_top_k: int | None = None,
        rrf_k: int = RRF_K,
        weights: tuple[float, float] = (1.0, 1.0),
        threshold: float | None = None,
        mode: Mode = "hybrid",
        fallback: Fallback = "baseline",
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        self._settings = SearchSettings(
            top_k=similarity_top_k,
            dense_top_k=dense_top_k,
            sparse_top_k=sparse_top_k,
            rrf_k=rrf_k,
            weights=weights,
            threshold=threshold,
            mode=mode,
        )
        self._search = HybridSearch(store, embed_model=embed_model, baseline_model=baseline_model, fallback=fallback)
        super().__init__(callback_manager=callback_manager, verbose=verbose)

    @property
    def similarity_top_k(self) -> int:
        """Results per query; can be set."""
        return self._settings.top_k

    @similarity_top_k.setter
    def similarity_top_k(self, top_k: int) -> None:
        self._settings = replace(self._settings, top_k=top_k)

    @property
    def settings(self) -> SearchSettings:
        """Everything that a search depends on."""
        return self._settings

    @property
    def served(self) -> Counter[str]:
        """How many searches each of "finetuned", "baseline" and "lexical" served."""
        return self._search.served

    @classmethod
    def from_run(cls, run: str | Path, **options: Any) -> FineTunedHybridRetriever:
        """Open what `ace-finetune run` left: its index, its model, its base model, and the weights that dev chose.

        A model that cannot be loaded is replaced by the baseline, visibly, unless `fallback="off"`.
        """
        folder = RunFolder.open(Path(run))
        options.setdefault("weights", folder.fusion_weights())
        models = load_models(folder.model, folder.base_model(), fallback=options.get("fallback", "baseline"))
        store = MemoryStore.open(path=folder.index)
        try:
            return cls(store, embed_model=models[0], baseline_model=models[1], **options)
        except Exception:
            store.close()
            raise

    @classmethod
    def from_nodes(
        cls,
        nodes: Sequence[BaseNode],
        *,
        model: str | Path,
        baseline: str | Path | None = DEFAULT_BASE_MODEL,
        path: str | Path | None = None,
        **options: Any,
    ) -> FineTunedHybridRetriever:
        """Embed nodes with both models into a new store (in memory, or in the folder `path`) and search it."""
        embed_model = FineTunedEmbedding(str(model))
        baseline_model = FineTunedEmbedding(str(baseline)) if baseline is not None else None
        store = build_index(
            nodes,
            finetuned=embed_model.encoder,
            baseline=baseline_model.encoder if baseline_model else None,
            path=path,
        )
        try:
            return cls(store, embed_model=embed_model, baseline_model=baseline_model, **options)
        except Exception:
            store.close()
            raise

    def close(self) -> None:
        """Release the store."""
        self._search.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [*self._search.run(query_bundle, self._settings)]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [*await self._search.arun(query_bundle, self._settings)]
