"""From memories and two models to a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from qdrant_client import QdrantClient

from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.memory_store import (
    BASELINE,
    DEFAULT_COLLECTION,
    FINETUNED,
    MemoryStore,
)
from llama_index_ace_finetune.stores.qdrant.collections import (
    VectorSpace,
    create_collection,
    is_unfinished,
    mark_finished,
    read_metadata,
    resolve_alias,
)
from llama_index_ace_finetune.stores.qdrant.connection import connect, told
from llama_index_ace_finetune.stores.qdrant.payload_indexes import PayloadIndexes
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25
from llama_index_ace_finetune.stores.upsert_nodes import upsert_nodes
from llama_index_ace_finetune.utils.new_folder import new_folder
from llama_index_ace_finetune.utils.owned import write_mark

INDEX: Final = "index"


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

    Until it is whole its metadata say so, and it is not opened; the same call completes it, and embeds only what is
    missing.

    Args:
        nodes: what is searched later.
        finetuned: the model that serves.
        baseline: the model that stands in for it; None builds without a fallback.
        path: folder of an embedded store.
        url: address of a server instead.
        api_key: of that server.
        collection: its name.
        server_bm25: have Qdrant hold BM25 vectors, too, for collections whose words do not fit in a process.
        resume: add to a collection that is there and whole; only what is missing is embedded.
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
    place: dict[str, Any] = {
        "path": path, "url": url, "api_key": api_key, "collection": collection, "client_options": client_options,
    }  # fmt: skip
    fresh = path is not None and not _holds_something(Path(path))
    store = _fill(
        nodes,
        encoders,
        place,
        server_bm25=server_bm25,
        resume=resume,
        cache=cache,
        progress=progress,
        collection_options=collection_options,
        payload_indexes=payload_indexes,
    )
    if path is not None and fresh:
        write_mark(Path(path), kind=INDEX, name=Path(path).name, grows=index_grows(collection))
    return store


def index_grows(collection: str = DEFAULT_COLLECTION) -> list[str]:
    """Return the folders of an embedded store in which Qdrant keeps a collection, for `new_folder`."""
    return [f"collection/{collection}"]


@contextmanager
def new_index_folder(path: Path, collection: str = DEFAULT_COLLECTION) -> Iterator[Path]:
    """Give a folder to build an embedded store in; see `new_folder`."""
    with new_folder(path, kind=INDEX, grows=index_grows(collection)) as aside:
        yield aside


def _holds_something(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _fill(
    nodes: Sequence[BaseNode],
    encoders: Mapping[str, Encoder],
    place: dict[str, Any],
    *,
    server_bm25: bool,
    resume: bool,
    cache: Path | None,
    progress: Progress | None,
    collection_options: Mapping[str, Any] | None,
    payload_indexes: PayloadIndexes | None,
) -> MemoryStore:
    """Write a collection, or complete one, and have its metadata say that it is finished."""
    spaces = vector_spaces(encoders)
    texts = (node.get_content(MetadataMode.EMBED) for node in nodes)
    sparse = SparseBM25.of(texts) if server_bm25 else None
    client, where = connect(**{name: value for name, value in place.items() if name != "collection"})
    try:
        store, unfinished = _held(client, place["collection"], spaces, sparse, where, resume=resume)
        if store is None:
            create_collection(
                client,
                place["collection"],
                spaces,
                where,
                sparse=sparse,
                options=collection_options,
                payload_indexes=payload_indexes,
                unfinished=True,
            )
            store = MemoryStore(client, place["collection"], spaces, where, sparse=sparse)
        elif unfinished:
            wanted = {node.node_id for node in nodes}
            store.delete([held.node_id for held in store.nodes() if held.node_id not in wanted])
        upsert_nodes(store, nodes, encoders, cache=cache, progress=progress)
        if unfinished:
            mark_finished(client, store.collection, where)
    except BaseException:
        client.close()
        raise
    return store


def _held(
    client: QdrantClient,
    collection: str,
    spaces: Mapping[str, VectorSpace],
    sparse: SparseBM25 | None,
    where: str,
    *,
    resume: bool,
) -> tuple[MemoryStore | None, bool]:
    """Return the collection to add to, None where a new one has to be made; and whether it is unfinished.

    An unfinished one of other models or words is deleted.

    Raises:
        StoreError: if it is finished, and `resume` is off or it is of other models.
    """
    if not told(where, client.collection_exists, collection):
        return None, True
    unfinished = is_unfinished(client, collection, where)
    if not unfinished and not resume:
        return None, True  # creating it says that it exists
    held, words = read_metadata(client, collection, where, unfinished_too=True)
    same = _fingerprints(held) == _fingerprints(spaces)
    if unfinished and not (same and words == sparse):
        told(where, client.delete_collection, collection)
        return None, True
    if not same:
        raise StoreError(
            f"The collection {collection!r} in {where} holds the vectors of other models; build it again under another "
            "name."
        )
    return MemoryStore(client, resolve_alias(client, collection), held, where, sparse=words), unfinished


def _fingerprints(spaces: Mapping[str, VectorSpace]) -> dict[str, str]:
    return {name: space.fingerprint for name, space in spaces.items()}
