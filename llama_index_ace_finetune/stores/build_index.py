"""From memories and two models to a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, TextNode

from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.memory_store import (
    BASELINE,
    DEFAULT_COLLECTION,
    FINETUNED,
    MemoryStore,
)
from llama_index_ace_finetune.stores.payload_indexes import PayloadIndexes
from llama_index_ace_finetune.stores.spaces import VectorSpace
from llama_index_ace_finetune.stores.sparse_vectors import SparseBM25
from llama_index_ace_finetune.stores.upsert_nodes import upsert_nodes


def memory_nodes(memories: Iterable[Memory]) -> list[BaseNode]:
    """Return a LlamaIndex node per memory: same id, same text; metadata is kept out of what is embedded."""
    return [
        TextNode(
            id_=memory.id,
            text=memory.text,
            metadata=dict(memory.metadata),
            excluded_embed_metadata_keys=list(memory.metadata),
            excluded_llm_metadata_keys=list(memory.metadata),
        )
        for memory in memories
    ]


def model_encoders(finetuned: Encoder, baseline: Encoder | None) -> dict[str, Encoder]:
    """Return the models by the names of their vectors."""
    return {FINETUNED: finetuned, **({BASELINE: baseline} if baseline else {})}


def vector_spaces(encoders: Mapping[str, Encoder]) -> dict[str, VectorSpace]:
    """Return what a collection has to know of each model's vectors."""
    return {
        name: VectorSpace(dimension=encoder.dimension, fingerprint=encoder.document_fingerprint, model=encoder.name)
        for name, encoder in encoders.items()
    }


def build_index(
    nodes: Sequence[BaseNode],
    *,
    finetuned: Encoder,
    baseline: Encoder | None,
    path: str | Path | None = None,
    url: str | None = None,
    api_key: str | None = None,
    collection: str = DEFAULT_COLLECTION,
    server_bm25: bool = False,
    resume: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
    client_options: Mapping[str, Any] | None = None,
    collection_options: Mapping[str, Any] | None = None,
    payload_indexes: PayloadIndexes | None = None,
) -> MemoryStore:
    """Embed the nodes' EMBED text with each model and write a new collection; return it open.

    Args:
        nodes: what is searched later.
        finetuned: the model that serves.
        baseline: the model that stands in for it; None builds without a fallback.
        path: folder of an embedded store.
        url: address of a server instead.
        api_key: of that server.
        collection: its name.
        server_bm25: have Qdrant hold BM25 vectors, too, for collections whose words do not fit in a process.
        resume: go on with a collection that an earlier call left unfinished; only what is missing is embedded.
        cache: folder for vectors.
        progress: called with the number of texts just encoded.
        client_options: passed to `QdrantClient`.
        collection_options: passed to `create_collection`.
        payload_indexes: keys of the metadata that a server indexes, so that filters on them are quick, and let at all
            in strict mode: their names, or names with types of index, as `create_payload_indexes` takes them.

    Raises:
        StoreError: if the collection exists, or, with `resume`, holds the vectors of other models.
    """
    encoders = model_encoders(finetuned, baseline)
    spaces = vector_spaces(encoders)
    place: dict[str, Any] = {
        "path": path, "url": url, "api_key": api_key, "collection": collection, "client_options": client_options,
    }  # fmt: skip
    store = _unfinished(spaces, place) if resume else None
    if store is None:
        texts = (node.get_content(MetadataMode.EMBED) for node in nodes)
        sparse = SparseBM25.of(texts) if server_bm25 else None
        store = MemoryStore.create(
            spaces, sparse=sparse, collection_options=collection_options, payload_indexes=payload_indexes, **place
        )
    try:
        upsert_nodes(store, nodes, encoders, cache=cache, progress=progress)
    except BaseException:
        store.close()
        raise
    return store


def _unfinished(spaces: Mapping[str, VectorSpace], place: dict[str, Any]) -> MemoryStore | None:
    """Return the collection that is there, if it is of the same models; None where there is none."""
    path, url = place["path"], place["url"]
    if url is None and (path is None or not (Path(path) / "meta.json").is_file()):
        return None
    store = MemoryStore.open(**place)
    if {name: space.fingerprint for name, space in store.spaces.items()} != {
        name: space.fingerprint for name, space in spaces.items()
    }:
        store.close()
        raise StoreError(
            f"The collection {store.collection!r} in {store.where} holds the vectors of other models; build it anew "
            "under another name."
        )
    return store
