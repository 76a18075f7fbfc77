"""FineTunedRetrieval: the original's class over the hybrid search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict

from llama_index.core.schema import MetadataMode, QueryBundle

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.errors import ModelError, StoreError
from llama_index_ace_finetune.retrievers.fallback import Fallback, FallbackSettings
from llama_index_ace_finetune.retrievers.hybrid_search import HybridSearch
from llama_index_ace_finetune.retrievers.load_models import load_serving_models
from llama_index_ace_finetune.retrievers.open_known_queries import open_known_queries
from llama_index_ace_finetune.retrievers.open_sparse import open_sparse_vectors
from llama_index_ace_finetune.retrievers.open_tokens import open_server_tokens, open_tokens
from llama_index_ace_finetune.retrievers.open_windows import open_windows
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory
from llama_index_ace_finetune.retrievers.retriever_options import search_settings, serving_options
from llama_index_ace_finetune.run_folder import RunFolder, index_beside
from llama_index_ace_finetune.serving import Serving
from llama_index_ace_finetune.stores.build_index import build_index, memory_nodes
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.qdrant.live_collection import DEFAULT_COLLECTION, LiveCollection

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_MODEL = "ace/embedding_finetuning/models/ace_finetuned"


class FineTunedRetrieval:
    """Search memories with the original's call and result keys.

    Memories come from the index that training left beside the model, or, with `qdrant_url`, from a collection on a
    server: one of ours is searched in place; another one's texts are read and embedded at construction. Where the run
    selected the base model's vectors, these are searched, and each result names the model.

    Args:
        finetuned_model_path: the model folder.
        qdrant_url: server to use instead of the index beside the model.
        collection_name: collection on that server.
        baseline_embedding_url: accepted for compatibility; the baseline is the model's own base model.
        baseline_model: model to fall back to; the base model that was tuned by default.
        fallback_to_baseline: search with the baseline where the tuned model fails; each result says what served it.

    Raises:
        ModelError: if the model cannot be loaded and there is no fallback.
        StoreError: if there is no index.
    """

    def __init__(
        self,
        finetuned_model_path: str | Path = DEFAULT_MODEL,
        qdrant_url: str | None = None,
        collection_name: str = DEFAULT_COLLECTION,
        baseline_embedding_url: str | None = None,
        baseline_model: str | None = None,
        fallback_to_baseline: bool = True,
    ) -> None:
        fallback: Fallback = "baseline" if fallback_to_baseline else "off"
        folder = Path(finetuned_model_path)
        serving = _serving(folder)
        self._serving = serving
        base = baseline_model or _base_model(folder)
        tuned, baseline, serve = load_serving_models(folder, base, vectors=serving.vectors, fallback=fallback)
        store = _open_store(folder, qdrant_url, collection_name, tuned, baseline)
        try:
            settings = FallbackSettings(fallback=fallback)
            reranker = None
            model, index = baseline if serve == "base" else tuned, index_beside(folder)
            if serving.has_late_interaction:
                reranker = open_tokens(index, model) if qdrant_url is None else open_server_tokens(store, model, index)
            sparse = open_sparse_vectors(index_beside(folder), serving, serving_options(serving))
            self._search = HybridSearch(
                store,
                embed_model=tuned,
                baseline_model=baseline,
                reranker=reranker,
                sparse_vectors=sparse,
                known_queries=open_known_queries(index, model, serving.known_query_offset, serving.known_query_weight),
                windows=open_windows(index, model, used=serving.windows),
                fallback=settings,
                serve=serve,
            )
        except Exception:
            store.close()
            raise

    def search(
        self, query: str, limit: int = 10, threshold: float = 0.3, use_hybrid: bool = False
    ) -> list[dict[str, Any]]:
        """Return the best memories as dicts; an empty list means that nothing matched.

        Args:
            query: what to look for.
            limit: results at most.
            threshold: lowest cosine of a dense hit; in a hybrid search it applies before fusion, to the dense leg.
            use_hybrid: fuse the dense ranking with BM25's and those of other legs, as the run's dev queries chose; the
                score is the fused one, in [0, 1].
        """
        return self.batch_search([query], limit=limit, threshold=threshold, use_hybrid=use_hybrid)[0]

    def batch_search(
        self, queries: Sequence[str], limit: int = 10, threshold: float = 0.3, use_hybrid: bool = False
    ) -> list[list[dict[str, Any]]]:
        """Return `search` of each query, in order; they are embedded together."""
        chosen = search_settings(serving_options(self._serving))
        settings = replace(chosen, top_k=limit, threshold=threshold, mode="hybrid" if use_hybrid else "dense")
        found = self._search.run_many([QueryBundle(query) for query in queries], settings)
        return [[_result(hit) for hit in hits] for hits in found]

    def get_embedding(self, text: str) -> list[float]:
        """Return the query vector of a text, by whichever model serves."""
        return self._search.embed(text)

    def close(self) -> None:
        """Release the index."""
        self._search.close()

    def __enter__(self) -> FineTunedRetrieval:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RetrievalOptions(TypedDict, total=False):
    """Options of `FineTunedRetrieval` besides the model."""

    qdrant_url: str | None
    collection_name: str
    baseline_embedding_url: str | None
    baseline_model: str | None
    fallback_to_baseline: bool


def create_finetuned_retrieval(
    finetuned_model_path: str | Path = DEFAULT_MODEL, **options: Unpack[RetrievalOptions]
) -> FineTunedRetrieval:
    """Return a `FineTunedRetrieval`; options are those of its constructor."""
    return FineTunedRetrieval(finetuned_model_path, **options)


def _serving(model: Path) -> Serving:
    """Return the selection on dev if the model is in a run folder; else the model with equal weights."""
    run = RunFolder.of_model(model)
    return run.serving() if run else Serving()


def _base_model(folder: Path) -> str:
    try:
        record = read_provenance(folder)
    except ModelError:
        record = None  # Loading the model raises the error.
    return str((record or {}).get("base_model") or DEFAULT_BASE_MODEL)


def _open_store(folder: Path, qdrant_url: str | None, collection: str, tuned: Any, baseline: Any) -> MemoryStore:
    if qdrant_url is None:
        return MemoryStore.open(path=index_beside(folder))
    try:
        return MemoryStore.open(url=qdrant_url, collection=collection)
    except StoreError:
        if tuned is None:
            raise
        live = LiveCollection(qdrant_url, collection)
        try:
            memories = live.memories()
        finally:
            live.close()
        nodes = memory_nodes({memory.id: memory for memory in memories}.values())
        return build_index(nodes, finetuned=tuned.encoder, baseline=baseline.encoder if baseline else None)


def _result(hit: RetrievedMemory) -> dict[str, Any]:
    """The original's keys; payload keys never overwrite what was computed."""
    metadata = hit.node.metadata
    return {
        **metadata,
        "id": metadata.get("source_id", hit.node.node_id),
        "content": hit.node.get_content(MetadataMode.NONE),
        "score": hit.score,
        "category": metadata.get("category", ""),
        "severity": metadata.get("severity", 0),
        "feedback_type": metadata.get("feedback_type", ""),
        "helpful": metadata.get("helpful", 0),
        "harmful": metadata.get("harmful", 0),
        **hit.origin(),
    }
