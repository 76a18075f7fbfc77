"""Build an index: embed memories with the tuned and the base model, and write them to Qdrant."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from qdrant_client import QdrantClient

from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.stores.memory_store import (
    BASELINE,
    DEFAULT_COLLECTION,
    FINETUNED,
    MemoryStore,
)
from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionOptions
from llama_index_ace_finetune.stores.qdrant.collections import (
    NamedVector,
    create_collection,
    is_unfinished,
    mark_finished,
    read_metadata,
    resolve_alias,
)
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant, connect
from llama_index_ace_finetune.stores.qdrant.payload_indexes import PayloadIndexes
from llama_index_ace_finetune.stores.qdrant.server_settings import ClientOptions
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25
from llama_index_ace_finetune.stores.qdrant.token_vectors import token_fingerprint
from llama_index_ace_finetune.stores.upsert_nodes import upsert_nodes
from llama_index_ace_finetune.utils.new_folder import new_folder
from llama_index_ace_finetune.utils.ownership import write_mark

INDEX: Final = "index"
logger = logging.getLogger(__name__)


def memory_nodes(memories: Iterable[Memory]) -> list[BaseNode]:
    """Return a LlamaIndex node per memory, with the same id and text; its metadata is not embedded."""
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
    """Return the models by the name of their vectors."""
    return {FINETUNED: finetuned, **({BASELINE: baseline} if baseline else {})}


def named_vectors_of(encoders: Mapping[str, Encoder]) -> dict[str, NamedVector]:
    """Return the named vector of each model."""
    return {
        name: NamedVector(dimension=encoder.dimension, fingerprint=encoder.document_fingerprint, model=encoder.name)
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
    client_options: ClientOptions | None = None,
    collection_options: CollectionOptions | None = None,
    payload_indexes: PayloadIndexes | None = None,
    tokens: TokenEncoder | None = None,
) -> MemoryStore:
    """Embed the nodes' EMBED text with each model and write a new collection; return its open store.

    An incomplete collection is marked as such and cannot be opened; repeating the call completes it and embeds only
    missing nodes.

    Args:
        nodes: the nodes to index.
        finetuned: the model that serves.
        baseline: the fallback model; None builds without one.
        path: folder of an embedded store.
        url: address of a server instead.
        api_key: of that server.
        collection: its name.
        server_bm25: also store BM25 vectors in Qdrant, for collections too large for BM25 in a process.
        resume: add to an existing complete collection; only missing nodes are embedded.
        cache: folder for vectors.
        progress: called with the number of texts just encoded.
        client_options: `ServerSettings`, or arguments of `QdrantClient`.
        collection_options: `CollectionSettings`, or arguments of `create_collection`.
        payload_indexes: metadata keys that a server indexes, for fast filters, and for any filters in strict mode:
            names, or names with index types, as in `create_payload_indexes`.
        tokens: also store token vectors by this encoder as multivectors in Qdrant; the store's `tokens` is None, with
            a warning, if an existing collection or the server has none.

    Raises:
        StoreError: if the collection exists, or, with `resume`, holds the vectors of other models.
    """
    encoders = model_encoders(finetuned, baseline)
    connection: dict[str, Any] = {
        "path": path, "url": url, "api_key": api_key, "collection": collection, "client_options": client_options,
    }  # fmt: skip
    fresh = path is not None and not _is_occupied(Path(path))
    store = _fill(
        nodes,
        encoders,
        connection,
        server_bm25=server_bm25,
        resume=resume,
        cache=cache,
        progress=progress,
        collection_options=collection_options,
        payload_indexes=payload_indexes,
        tokens=tokens,
    )
    if path is not None and fresh:
        write_mark(Path(path), kind=INDEX, name=Path(path).name, grows=index_grows(collection))
    return store


def index_grows(collection: str = DEFAULT_COLLECTION) -> list[str]:
    """Return the folders of an index to which serving adds files, for `new_folder`."""
    return [f"collection/{collection}", "tokens", "sparse", "known_queries", "windows"]


@contextmanager
def new_index_folder(path: Path, collection: str = DEFAULT_COLLECTION) -> Iterator[Path]:
    """Yield a folder to build an embedded store in; see `new_folder`."""
    with new_folder(path, kind=INDEX, grows=index_grows(collection)) as aside:
        yield aside


def _is_occupied(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _fill(
    nodes: Sequence[BaseNode],
    encoders: Mapping[str, Encoder],
    connection: dict[str, Any],
    *,
    server_bm25: bool,
    resume: bool,
    cache: Path | None,
    progress: Progress | None,
    collection_options: CollectionOptions | None,
    payload_indexes: PayloadIndexes | None,
    tokens: TokenEncoder | None,
) -> MemoryStore:
    """Write a collection, or complete an unfinished one, and mark it as finished."""
    named_vectors = named_vectors_of(encoders)
    texts = (node.get_content(MetadataMode.EMBED) for node in nodes)
    sparse = SparseBM25.of(texts) if server_bm25 else None
    client, location = connect(**{name: value for name, value in connection.items() if name != "collection"})
    try:
        store, unfinished = _existing(
            client, connection["collection"], named_vectors, sparse, location, resume=resume, tokens=tokens
        )
        if store is None:
            create_collection(
                client,
                connection["collection"],
                named_vectors,
                location,
                sparse=sparse,
                options=collection_options,
                payload_indexes=payload_indexes,
                tokens=tokens,
                unfinished=True,
            )
            store = MemoryStore(client, connection["collection"], named_vectors, location, sparse=sparse)
        elif unfinished:
            wanted = {node.node_id for node in nodes}
            store.delete([stored.node_id for stored in store.nodes() if stored.node_id not in wanted])
        if tokens is not None:
            _use_tokens(store, tokens)
        upsert_nodes(store, nodes, encoders, cache=cache, progress=progress)
        if unfinished:
            store.wait_until_written(len({node.node_id for node in nodes}))
            mark_finished(client, store.collection, location)
    except BaseException:
        client.close()
        raise
    return store


def _existing(
    client: QdrantClient,
    collection: str,
    named_vectors: Mapping[str, NamedVector],
    sparse: SparseBM25 | None,
    location: str,
    *,
    resume: bool,
    tokens: TokenEncoder | None,
) -> tuple[MemoryStore | None, bool]:
    """Return the collection to add to (None if a new one has to be created), and whether it is unfinished.

    An unfinished collection of other models, BM25 settings or token vectors is deleted.

    Raises:
        StoreError: if it is finished and has vectors of other models.
    """
    if not call_qdrant(location, client.collection_exists, collection):
        return None, True
    unfinished = is_unfinished(client, collection, location)
    if not unfinished and not resume:
        return None, True  # `create_collection` raises, since it exists
    stored, sparse_stored = read_metadata(client, collection, location, allow_unfinished=True)
    same = _fingerprints(stored) == _fingerprints(named_vectors)
    same_tokens = token_fingerprint(client, collection, location) == (tokens.fingerprint if tokens else None)
    if unfinished and not (same and same_tokens and sparse_stored == sparse):
        call_qdrant(location, client.delete_collection, collection)
        return None, True
    if not same:
        raise StoreError(
            f"The collection {collection!r} in {location} has vectors of other models; build the index under another "
            "name."
        )
    return MemoryStore(client, resolve_alias(client, collection), stored, location, sparse=sparse_stored), unfinished


def _use_tokens(store: MemoryStore, tokens: TokenEncoder) -> None:
    try:
        store.use_tokens([tokens])
    except StoreError as error:
        logger.warning("late interaction is skipped: %s", error)


def _fingerprints(named_vectors: Mapping[str, NamedVector]) -> dict[str, str]:
    return {name: named_vector.fingerprint for name, named_vector in named_vectors.items()}
