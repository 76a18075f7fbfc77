"""FineTunedHybridRetriever: retrieval by several legs, fused, with a logged fallback to the baseline."""

from __future__ import annotations

import copy
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle
from llama_index.vector_stores.qdrant import QdrantVectorStore

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.encoders.stored_windows import StoredWindows
from llama_index_ace_finetune.errors import AceFinetuneError, LogError
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.retrievers.hybrid_search import HybridSearch
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory
from llama_index_ace_finetune.retrievers.retriever_options import (
    CheckedOptions,
    RetrieverOptions,
    SearchOptions,
    search_settings,
)
from llama_index_ace_finetune.retrievers.retriever_parts import RetrieverParts
from llama_index_ace_finetune.retrievers.search_event import SearchEvent
from llama_index_ace_finetune.retrievers.search_settings import SearchSettings
from llama_index_ace_finetune.stores.known_queries import StoredKnownQueries
from llama_index_ace_finetune.stores.memory_store import DEFAULT_COLLECTION, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionOptions
from llama_index_ace_finetune.stores.qdrant.payload_indexes import PayloadIndexes
from llama_index_ace_finetune.stores.qdrant.server_settings import ClientOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

dispatcher = get_dispatcher(__name__)


class FineTunedHybridRetriever(BaseRetriever):
    """Retrieve memories by a fine-tuned embedding model and BM25, fused by ranks or scores.

    The retrievers that are fused (dense, BM25 and others, see `leg_weights`) are called the legs of the search. Each
    result's score is the fused score in [0, 1] (1 = best in every leg); in mode "dense" it is the cosine, in mode
    "sparse" the BM25 score. Results are `RetrievedMemory` objects with what served them ("finetuned", "base",
    "baseline" or "lexical", see `ServedBy`) and each leg's score and rank; their nodes are unchanged.

    An empty list means no hits. If the model fails, an exception is raised; with `fallback="baseline"`, the baseline's
    vectors of the same collection are searched instead (and BM25 only, if the baseline fails too), which is logged,
    counted in `served` and `fallbacks`, and sent as a `FallbackEvent`. If late interaction, the sparse encoder or the
    base model beside the tuned one fails, that leg is skipped, which is reported in the same way and in each result's
    `skipped_legs`. If the store fails, an exception is always raised.

    Each search is sent as a `SearchEvent`; with a `query_log` it is also logged, and results carry the `query_id` that
    `feedback` takes.

    A vector in a `QueryBundle` is ignored, since it is unknown which model made it; the dense leg embeds
    `custom_embedding_strs`, BM25 uses the query text.

    Args:
        store: an open memory store.
        embed_model: the model of the store's "finetuned" vectors; None if it could not be loaded.
        baseline_model: the model of its "baseline" vectors.
        reranker: the token vectors of the memories by the model that serves, for the leg "late".
        sparse_vectors: the vectors of a sparse encoder, for the leg "sparse".
        known_queries: vectors of known queries by the model that serves, for `known_query_offset`.
        stored_windows: windows of long texts by the model that serves, for `windows`.
        options: any of `RetrieverOptions`.

    Raises:
        AceFinetuneError: for an unknown option or an invalid value. The constructors below validate the options before
            they load a model, embed a text or write anything.
        StoreError: if the store's vectors were made by another model and `fallback` is "off".
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        embed_model: BaseEmbedding | None,
        baseline_model: BaseEmbedding | None = None,
        reranker: TokenReranker | None = None,
        sparse_vectors: StoredSparseVectors | None = None,
        known_queries: StoredKnownQueries | None = None,
        stored_windows: StoredWindows | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> None:
        checked = CheckedOptions.of(options)
        self._settings = checked.search
        self._search = HybridSearch(
            store,
            embed_model=embed_model,
            baseline_model=baseline_model,
            reranker=reranker,
            sparse_vectors=sparse_vectors,
            known_queries=known_queries,
            windows=stored_windows,
            fallback=checked.fallback,
            sparse=checked.sparse,
            bm25=checked.bm25,
            serve=checked.serve,
        )
        self._query_log = checked.query_log
        if self._query_log is not None:
            self._query_log.attach()
        self._run: str | None = None
        super().__init__(
            callback_manager=checked.callback_manager,
            object_map=checked.object_map,
            objects=checked.objects,
            verbose=checked.verbose,
        )

    @property
    def similarity_top_k(self) -> int:
        """Number of results per query; can be set."""
        return self._settings.top_k

    @similarity_top_k.setter
    def similarity_top_k(self, top_k: int) -> None:
        self._settings = replace(self._settings, top_k=top_k)

    @property
    def settings(self) -> SearchSettings:
        """The settings of a search."""
        return self._settings

    @property
    def store(self) -> MemoryStore:
        """The memory store; the next search finds what was written to it."""
        return self._search.store

    @property
    def served(self) -> Counter[str]:
        """Number of searches served by "finetuned", "base", "baseline" and "lexical"; see `ServedBy`."""
        return self._search.served

    @property
    def fallbacks(self) -> Counter[tuple[str, str]]:
        """Number of fallbacks by (name of the failed model's vectors, reason); see `FallbackEvent`."""
        return self._search.fallbacks

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        *,
        url: str | None = None,
        api_key: str | None = None,
        collection: str = DEFAULT_COLLECTION,
        client_options: ClientOptions | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> FineTunedHybridRetriever:
        """Open a run of `ace-finetune run`: its index, its models, and the legs and fusion chosen on dev.

        If the verdict chose the base model, that serves, and results say "base". If the tuned model cannot be loaded,
        the baseline serves and a warning is logged; with `fallback="off"`, a model that cannot be loaded is an error.

        With `url`, the memories are those of a collection on that server that was built with the run's model, as by
        `ace-finetune index --url`; BM25 is computed there if the collection has BM25 vectors, unless `sparse` says
        otherwise. `client_options` are `ServerSettings` or arguments of `QdrantClient`.
        """
        parts = RetrieverParts.of_run(
            run, options, url=url, api_key=api_key, collection=collection, client_options=client_options
        )
        return cls._of(parts)

    @classmethod
    def from_nodes(
        cls,
        nodes: Sequence[BaseNode],
        *,
        model: str | Path,
        baseline: str | Path | None = DEFAULT_BASE_MODEL,
        path: str | Path | None = None,
        url: str | None = None,
        api_key: str | None = None,
        collection: str = DEFAULT_COLLECTION,
        client_options: ClientOptions | None = None,
        collection_options: CollectionOptions | None = None,
        payload_indexes: PayloadIndexes | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> FineTunedHybridRetriever:
        """Embed nodes with both models into a new store, and return a retriever over it.

        The store is in memory, in the folder `path`, or on the server at `url`. With `sparse="server"`, Qdrant also
        stores BM25 vectors. `client_options` are `ServerSettings` or arguments of `QdrantClient` (`prefer_grpc`,
        `timeout`), `collection_options` are `CollectionSettings` or arguments of `create_collection` (`shard_number`,
        `replication_factor`). `payload_indexes` are the metadata keys that a server indexes, for fast filters, and for
        strict mode, which rejects filters on other keys: a list of keys, indexed as "keyword", or a dict of keys and
        Qdrant's index types.
        """
        parts = RetrieverParts.of_nodes(
            nodes,
            options,
            model=model,
            baseline=baseline,
            path=path,
            url=url,
            api_key=api_key,
            collection=collection,
            client_options=client_options,
            collection_options=collection_options,
            payload_indexes=payload_indexes,
        )
        return cls._of(parts)

    @classmethod
    def from_collection(
        cls,
        collection: str = DEFAULT_COLLECTION,
        *,
        model: str | Path,
        baseline: str | Path | None = DEFAULT_BASE_MODEL,
        path: str | Path | None = None,
        url: str | None = None,
        api_key: str | None = None,
        client_options: ClientOptions | None = None,
        payload_indexes: PayloadIndexes | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> FineTunedHybridRetriever:
        """Search a collection that this package built, or an alias of one, in a folder or on a server.

        If the model cannot be loaded, the baseline serves and a warning is logged, unless `fallback="off"`.
        `client_options` are `ServerSettings` or arguments of `QdrantClient`. `payload_indexes`, as in `from_nodes`, are
        created if they do not exist.
        """
        parts = RetrieverParts.of_collection(
            collection,
            options,
            model=model,
            baseline=baseline,
            path=path,
            url=url,
            api_key=api_key,
            client_options=client_options,
            payload_indexes=payload_indexes,
        )
        return cls._of(parts)

    @classmethod
    def from_vector_store(
        cls,
        vector_store: QdrantVectorStore,
        *,
        model: str | Path,
        baseline: str | Path | None = DEFAULT_BASE_MODEL,
        payload_indexes: PayloadIndexes | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> FineTunedHybridRetriever:
        """Search the collection of a LlamaIndex vector store.

        A collection that LlamaIndex built is adopted in place: the vectors of both models are added to its points, and
        the vector store can still read it. The caller closes the vector store's client. `payload_indexes`: as in
        `from_nodes`.
        """
        parts = RetrieverParts.of_vector_store(
            vector_store, options, model=model, baseline=baseline, payload_indexes=payload_indexes
        )
        return cls._of(parts)

    @classmethod
    def _of(cls, parts: RetrieverParts) -> FineTunedHybridRetriever:
        """Create a retriever; close the store if that raises."""
        try:
            retriever = cls(
                parts.store,
                embed_model=parts.tuned,
                baseline_model=parts.baseline,
                reranker=parts.reranker,
                sparse_vectors=parts.sparse,
                known_queries=parts.open_known_queries(),
                stored_windows=parts.windows,
                **parts.options,
            )
        except BaseException:
            parts.store.close()
            raise
        retriever._run = None if parts.run is None else str(parts.run.path.resolve())
        return retriever

    def as_retriever(self, **changes: Unpack[SearchOptions]) -> FineTunedHybridRetriever:
        """Return a retriever with other settings over the same store, models and counters.

        Args:
            changes: any of `SearchOptions`, such as `similarity_top_k`, `mode` and `filters`.
        """
        other = copy.copy(self)
        other._settings = search_settings(changes, self._settings)
        return other

    def search(self, query: str | QueryBundle, **changes: Unpack[SearchOptions]) -> list[NodeWithScore]:
        """`retrieve` with options for this call only, such as `filters`; see `as_retriever`."""
        return self.as_retriever(**changes).retrieve(query)

    async def asearch(self, query: str | QueryBundle, **changes: Unpack[SearchOptions]) -> list[NodeWithScore]:
        """`aretrieve` with options for this call only."""
        return await self.as_retriever(**changes).aretrieve(query)

    def retrieve_batch(
        self, queries: Sequence[str | QueryBundle], **changes: Unpack[SearchOptions]
    ) -> list[list[NodeWithScore]]:
        """Return the results of each query; they are embedded and searched in one batch, which is faster."""
        bundles, settings = [_bundle(query) for query in queries], self.as_retriever(**changes)._settings
        start = time.perf_counter()
        return self._served(bundles, self._search.run_many(bundles, settings), settings, start)

    async def aretrieve_batch(
        self, queries: Sequence[str | QueryBundle], **changes: Unpack[SearchOptions]
    ) -> list[list[NodeWithScore]]:
        """`retrieve_batch` off the event loop."""
        bundles, settings = [_bundle(query) for query in queries], self.as_retriever(**changes)._settings
        start = time.perf_counter()
        return self._served(bundles, await self._search.arun_many(bundles, settings), settings, start)

    def feedback(self, query_id: str, node_id: str, value: float, reason: str | None = None) -> None:
        """Record in the query log whether a memory is relevant to a served query.

        Args:
            query_id: of a result of that query.
            node_id: of the memory.
            value: from -1 (not relevant) to 1 (relevant), not 0; True and False are 1 and -1.
            reason: free text.

        Raises:
            AceFinetuneError: for a value out of range, a query that the log does not have, or a retriever without a
                log.
        """
        if self._query_log is None:
            raise LogError("The retriever has no query log; give it one as `query_log=QueryLog.open(path)`.")
        self._query_log.feedback(query_id, node_id, value, reason=reason)

    def build_token_vectors(self) -> int:
        """Encode the memories that have no token vectors yet, however many; return their number.

        A search encodes at most 256 new memories for late interaction, and skips that leg if there are more.

        Raises:
            AceFinetuneError: without a `reranker`.
        """
        if self._search.late is None:
            raise AceFinetuneError(
                "The retriever has no token vectors; give it a `reranker`, or build the index again."
            )
        return self._search.late.fill()

    def build_sparse_vectors(self) -> int:
        """Encode the memories that have no vector by the sparse encoder yet, however many; return their number.

        A search encodes at most 256 new memories for the leg "sparse", and skips that leg if there are more.

        Raises:
            AceFinetuneError: without `sparse_vectors`.
        """
        count = self._search.fill_sparse()
        if count is None:
            raise AceFinetuneError(
                "The retriever has no sparse encoder; give it `sparse_vectors`, or run again with --sparse-encoder."
            )
        return count

    def build_windows(self) -> int:
        """Split and encode the long memories that have no windows yet; return the number of memories looked at.

        A search encodes at most 256 windows of new memories, and skips all windows if there are more.

        Raises:
            AceFinetuneError: without windows.
        """
        count = self._search.fill_windows()
        if count is None:
            raise AceFinetuneError("The retriever has no windows; give it windows=True, or build the index again.")
        return count

    def refresh(self) -> None:
        """Rebuild the lexical indexes from the store; call it after another process wrote to the server."""
        self._search.refresh()

    def reread(self) -> None:
        """Deprecated: use `refresh`."""
        warnings.warn("FineTunedHybridRetriever.reread is deprecated; use refresh.", DeprecationWarning, stacklevel=2)
        self.refresh()

    def close(self) -> None:
        """Release the store."""
        self._search.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        start = time.perf_counter()
        found = self._search.run(query_bundle, self._settings)
        return self._served([query_bundle], [found], self._settings, start)[0]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        start = time.perf_counter()
        found = await self._search.arun(query_bundle, self._settings)
        return self._served([query_bundle], [found], self._settings, start)[0]

    def _served(
        self,
        bundles: Sequence[QueryBundle],
        found: Sequence[list[RetrievedMemory]],
        settings: SearchSettings,
        start: float,
    ) -> list[list[NodeWithScore]]:
        """Send the event of each search that began at `start`, and return the results."""
        seconds, log = time.perf_counter() - start, self._query_log
        for bundle, results in zip(bundles, found, strict=True):
            query_id = None if log is None else log.new_query_id()
            for result in results:
                result.query_id = query_id
            served_by = results[0].served_by if results else None
            legs = settings.legs(served_by or "finetuned")
            event = SearchEvent(
                query_id=query_id,
                log_id=None if log is None else log.log_id,
                query=bundle.query_str,
                results=[*results],
                seconds=seconds,
                mode=settings.mode,
                served_by=served_by,
                fingerprint=self._search.chain.fingerprint(served_by),
                run=self._run,
                weights=settings.pair(served_by),
                fusion=legs.kind,
                leg_weights=dict(legs.weights),
                rrf_k=settings.rrf_k if legs.kind == "rrf" else None,
            )
            dispatcher.event(event)
        return [[*results] for results in found]


def _bundle(query: str | QueryBundle) -> QueryBundle:
    return QueryBundle(query) if isinstance(query, str) else query
