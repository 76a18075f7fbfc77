"""Embed nodes and write them, without embedding again what is there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llama_index.core.schema import BaseNode, MetadataMode

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.qdrant.node_points import require_own_ids

_AT_ONCE = 2048


def upsert_nodes(
    store: MemoryStore,
    nodes: Sequence[BaseNode],
    encoders: Mapping[str, Encoder],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the nodes that are new or changed; return how many those were.

    They are embedded and written a few thousand at a time, so a call that was broken off is resumed by making it
    again.

    Args:
        store: where to.
        nodes: what to write; a node whose id is there replaces it.
        encoders: the model of each of the store's spaces.
        cache: folder for vectors.
        progress: called with the number of texts just embedded or found to be there.

    Raises:
        StoreError: if a model is missing or is not the one of the store's vectors, or two different nodes share an id.
    """
    for name, space in store.spaces.items():
        encoder = encoders.get(name)
        if encoder is None or encoder.document_fingerprint != space.fingerprint:
            given = f"{encoder.name!r} is another one" if encoder else "none was given"
            raise StoreError(
                f"The {name} vectors in {store.where} need the model that they were made with, and {given}; give the "
                "folder of that model, or build the index again."
            )
    require_own_ids(nodes)
    written = 0
    for start in range(0, len(nodes), _AT_ONCE):
        batch = nodes[start : start + _AT_ONCE]
        changed = [batch[place] for place in store.changed(batch)]
        if progress:
            progress((len(batch) - len(changed)) * len(store.spaces))
        texts = [node.get_content(MetadataMode.EMBED) for node in changed]
        vectors = {
            name: encoders[name].encode(texts, role="document", cache=cache, progress=progress) for name in store.spaces
        }
        store.upsert(changed, vectors)
        written += len(changed)
    return written


def refresh_documents(
    store: MemoryStore,
    nodes: Sequence[BaseNode],
    encoders: Mapping[str, Encoder],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[int, int]:
    """Make the source documents of `nodes` (their `ref_doc_id`) consist of exactly these nodes.

    Only new and changed nodes are embedded; nodes of these documents that are not among `nodes` are deleted, after
    the new ones are in. Nodes without a source document are written and replace none.

    Returns:
        How many nodes were written and how many deleted.
    """
    written = upsert_nodes(store, nodes, encoders, cache=cache, progress=progress)
    documents = {node.ref_doc_id for node in nodes if node.ref_doc_id}
    kept = {node.node_id for node in nodes}
    gone = [node_id for node_id in store.document_nodes(sorted(documents)) if node_id not in kept]
    store.delete(gone)
    return written, len(gone)
