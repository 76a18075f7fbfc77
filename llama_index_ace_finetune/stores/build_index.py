"""From memories and two models to a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from llama_index.core.schema import BaseNode, MetadataMode, TextNode

from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.stores.memory_store import (
    BASELINE,
    DEFAULT_COLLECTION,
    FINETUNED,
    MemoryStore,
    VectorSpace,
)


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


def build_index(
    nodes: Sequence[BaseNode],
    *,
    finetuned: Encoder,
    baseline: Encoder | None,
    path: str | Path | None = None,
    url: str | None = None,
    api_key: str | None = None,
    collection: str = DEFAULT_COLLECTION,
    cache: Path | None = None,
    progress: Progress | None = None,
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
        cache: folder for vectors.
        progress: called with the number of texts just encoded.
    """
    texts = [node.get_content(MetadataMode.EMBED) for node in nodes]
    encoders = {FINETUNED: finetuned, **({BASELINE: baseline} if baseline else {})}
    vectors = {
        name: encoder.encode(texts, role="document", cache=cache, progress=progress)
        for name, encoder in encoders.items()
    }
    spaces = {
        name: VectorSpace(dimension=encoder.dimension, fingerprint=encoder.fingerprint, model=encoder.name)
        for name, encoder in encoders.items()
    }
    store = MemoryStore.create(spaces, path=path, url=url, api_key=api_key, collection=collection)
    try:
        store.upsert(nodes, vectors)
    except BaseException:
        store.close()
        raise
    return store
