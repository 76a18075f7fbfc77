"""RetrieverParts: the store, the models and the vectors that a hybrid retriever searches with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index.core.schema import BaseNode
from llama_index.vector_stores.qdrant import QdrantVectorStore

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.encoders.stored_windows import StoredWindows
from llama_index_ace_finetune.errors import AceFinetuneError, StoreError
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.retrievers.load_models import load_models, load_serving_models
from llama_index_ace_finetune.retrievers.open_known_queries import open_known_queries
from llama_index_ace_finetune.retrievers.open_sparse import build_sparse_vectors, open_sparse_vectors
from llama_index_ace_finetune.retrievers.open_tokens import (
    build_tokens,
    open_server_tokens,
    open_tokens,
    token_encoders,
    uses_late_interaction,
)
from llama_index_ace_finetune.retrievers.open_windows import build_store_windows, open_windows
from llama_index_ace_finetune.retrievers.other_texts import warn_of_other_texts
from llama_index_ace_finetune.retrievers.retriever_options import CheckedOptions, RetrieverOptions
from llama_index_ace_finetune.retrievers.run_weights import with_run_weights, with_weights
from llama_index_ace_finetune.run_folder import RunFolder, token_folder
from llama_index_ace_finetune.stores.adopt import adopt
from llama_index_ace_finetune.stores.build_index import build_index, model_encoders
from llama_index_ace_finetune.stores.known_queries import StoredKnownQueries
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionOptions
from llama_index_ace_finetune.stores.qdrant.collections import is_ours
from llama_index_ace_finetune.stores.qdrant.payload_indexes import PayloadIndexes
from llama_index_ace_finetune.stores.qdrant.server_settings import ClientOptions

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


@dataclass(frozen=True, kw_only=True)
class RetrieverParts:
    """What a retriever's constructor takes, as opened or built by the functions of `FineTunedHybridRetriever`.

    Options are validated before a model is loaded, a text is embedded or anything is written.

    Attributes:
        store: open; closed with the retriever.
        tuned: the model of its "finetuned" vectors; None if it could not be loaded.
        baseline: the model of its "baseline" vectors; None without a fallback.
        options: those of the retriever, with the legs and weights of the run.
        reranker: token vectors for late interaction.
        sparse: vectors of a sparse encoder.
        windows: of long texts.
        run: that the model belongs to.
    """

    store: MemoryStore
    tuned: FineTunedEmbedding | None
    baseline: FineTunedEmbedding | None
    options: RetrieverOptions
    reranker: TokenReranker | None = None
    sparse: StoredSparseVectors | None = None
    windows: StoredWindows | None = None
    run: RunFolder | None = None

    def open_known_queries(self) -> StoredKnownQueries | None:
        """Return the known queries of the run by the model that serves, if the options use them."""
        serving = _serving_model(self.tuned, self.baseline, self.options)
        offset, weight = self.options.get("known_query_offset"), self.options.get("known_query_weight", 0)
        return None if self.run is None else open_known_queries(self.run.index, serving, offset, weight)

    @classmethod
    def of_run(
        cls,
        run: str | Path,
        options: RetrieverOptions,
        *,
        url: str | None,
        api_key: str | None,
        collection: str,
        client_options: ClientOptions | None,
    ) -> RetrieverParts:
        """Open the models and the index of a run, or a collection on a server with the run's models."""
        checked = CheckedOptions.of(options)
        folder = RunFolder.open(Path(run))
        serving = folder.serving()
        options = with_weights(serving, options)
        tuned, baseline, serve = load_serving_models(
            folder.model,
            folder.base_model(),
            vectors=serving.vectors,
            fallback=checked.fallback.fallback,
        )
        options = {**options, "serve": serve}
        if url is None:
            store = MemoryStore.open(path=folder.index)
        else:
            store = MemoryStore.open(url=url, api_key=api_key, collection=collection, client_options=client_options)
            by_server: RetrieverOptions = {"sparse": "server" if store.sparse else "in_process"}
            options = {**by_server, **options}
        return cls._open(store, tuned, baseline, options, run=folder, index=folder.index, on_server=url is not None)

    @classmethod
    def of_nodes(
        cls,
        nodes: Sequence[BaseNode],
        options: RetrieverOptions,
        *,
        model: str | Path,
        baseline: str | Path | None,
        path: str | Path | None,
        url: str | None,
        api_key: str | None,
        collection: str,
        client_options: ClientOptions | None,
        collection_options: CollectionOptions | None,
        payload_indexes: PayloadIndexes | None,
    ) -> RetrieverParts:
        """Embed nodes into a new store."""
        checked = CheckedOptions.of(options)
        options = with_run_weights(model, options)
        tuned, base = _models(model, baseline)
        serving = _serving_model(tuned, base, options) or tuned
        run = RunFolder.of_model(model)
        late = uses_late_interaction(options)
        by_server = late and url is not None
        store = build_index(
            nodes,
            finetuned=tuned.encoder,
            baseline=base.encoder if base else None,
            path=path,
            url=url,
            api_key=api_key,
            collection=collection,
            server_bm25=checked.sparse == "server",
            client_options=client_options,
            collection_options=collection_options,
            payload_indexes=payload_indexes,
            tokens=token_encoders(serving, run.index if run else None)[0] if by_server else None,
        )
        index = None if path is None else Path(path)
        reranker = None
        if late and not by_server:
            folder = None if index is None else token_folder(index)
            settings = TokenSettings(pooling=run.serving().token_pooling if run else 1)
            reranker = build_tokens(store, serving.encoder, folder=folder, settings=settings)
        return cls(
            store=store,
            tuned=tuned,
            baseline=base,
            options=options,
            reranker=reranker,
            sparse=build_sparse_vectors(store, run, options, index=index),
            windows=build_store_windows(store, serving, used=options.get("windows", False), index=index),
            run=run,
        )

    @classmethod
    def of_collection(
        cls,
        collection: str,
        options: RetrieverOptions,
        *,
        model: str | Path,
        baseline: str | Path | None,
        path: str | Path | None,
        url: str | None,
        api_key: str | None,
        client_options: ClientOptions | None,
        payload_indexes: PayloadIndexes | None,
    ) -> RetrieverParts:
        """Open a collection that this package built."""
        checked = CheckedOptions.of(options)
        options = with_run_weights(model, options)
        tuned, base = load_models(model, baseline, fallback=checked.fallback.fallback)
        store = MemoryStore.open(
            path=path, url=url, api_key=api_key, collection=collection, client_options=client_options
        )
        if payload_indexes:
            store.create_payload_indexes(payload_indexes)
        run = RunFolder.of_model(model)
        index = Path(path) if path is not None else run.index if run else None
        return cls._open(store, tuned, base, options, run=run, index=index, on_server=path is None)

    @classmethod
    def of_vector_store(
        cls,
        vector_store: QdrantVectorStore,
        options: RetrieverOptions,
        *,
        model: str | Path,
        baseline: str | Path | None,
        payload_indexes: PayloadIndexes | None,
    ) -> RetrieverParts:
        """Open the collection of a LlamaIndex vector store; one that LlamaIndex built is adopted."""
        checked = CheckedOptions.of(options)
        try:
            client = vector_store.client
        except ValueError as error:
            raise AceFinetuneError(
                "The vector store has only an asynchronous client; give it a `client` as well as its `aclient`."
            ) from error
        if checked.sparse == "server":
            _require_bm25_vectors(client, vector_store.collection_name)
        options = with_run_weights(model, options)
        tuned, base = _models(model, baseline)
        encoders = model_encoders(tuned.encoder, base.encoder if base else None)
        store = adopt(client, vector_store.collection_name, encoders, payload_indexes=payload_indexes)
        run = RunFolder.of_model(model)
        warn_of_other_texts(client, store.collection, run)
        return cls._open(store, tuned, base, options, run=run, index=run.index if run else None, on_server=True)

    @classmethod
    def _open(
        cls,
        store: MemoryStore,
        tuned: FineTunedEmbedding | None,
        baseline: FineTunedEmbedding | None,
        options: RetrieverOptions,
        *,
        run: RunFolder | None,
        index: Path | None,
        on_server: bool,
    ) -> RetrieverParts:
        """Open what an index stores beside its vectors, by the model that serves; close the store if that raises."""
        serving = _serving_model(tuned, baseline, options)
        try:
            if on_server or index is None:
                reranker = open_server_tokens(store, serving, index, options)
            else:
                reranker = open_tokens(index, serving, options)
            sparse = open_sparse_vectors(index, run.serving() if run else None, options)
            windows = open_windows(index, serving, used=options.get("windows", False))
        except BaseException:
            store.close()
            raise
        return cls(
            store=store,
            tuned=tuned,
            baseline=baseline,
            options=options,
            reranker=reranker,
            sparse=sparse,
            windows=windows,
            run=run,
        )


def _models(model: str | Path, baseline: str | Path | None) -> tuple[FineTunedEmbedding, FineTunedEmbedding | None]:
    return FineTunedEmbedding(str(model)), None if baseline is None else FineTunedEmbedding(str(baseline))


def _serving_model(
    tuned: FineTunedEmbedding | None, baseline: FineTunedEmbedding | None, options: RetrieverOptions
) -> FineTunedEmbedding | None:
    return baseline if options.get("serve") == "base" else tuned


def _require_bm25_vectors(client: QdrantClient, collection: str) -> None:
    """Raise StoreError if the collection has no BM25 vectors, before an adoption writes anything."""
    if not is_ours(client, collection) or MemoryStore.attach(client, collection).sparse is None:
        raise StoreError(
            f"The collection {collection!r} holds no BM25 vectors, which sparse='server' needs; leave that option out, "
            "or build a collection with from_nodes(..., sparse='server')."
        )
