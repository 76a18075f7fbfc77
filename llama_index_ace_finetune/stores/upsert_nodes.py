"""Embed and write nodes, skipping those that are stored unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llama_index.core.schema import BaseNode, MetadataMode

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.qdrant.node_points import require_unique_ids

_BATCH = 2048


def upsert_nodes(
    store: MemoryStore,
    nodes: Sequence[BaseNode],
    encoders: Mapping[str, Encoder],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> int:
    """Embed and write the nodes that are new or changed; return their number.

    Nodes are embedded and written in batches of a few thousand, so an interrupted call is resumed by repeating it.

    Args:
        store: to write to.
        nodes: nodes to write; a node with an existing id replaces the stored one.
        encoders: the model of each of the store's named vectors.
        cache: folder for vectors.
        progress: called with the number of texts just embedded or found unchanged.

    Raises:
        StoreError: if a model is missing or did not make the store's vectors, or two different nodes have the same id.
    """
    for name, named_vector in store.named_vectors.items():
        encoder = encoders.get(name)
        if encoder is None or encoder.document_fingerprint != named_vector.fingerprint:
            given = f"{encoder.name!r} is a different one" if encoder else "none was given"
            raise StoreError(
                f"The {name} vectors in {store.location} need the model that made them, and {given}; give the folder "
                "of that model, or build the index again."
            )
    require_unique_ids(nodes)
    written = 0
    for start in range(0, len(nodes), _BATCH):
        batch = nodes[start : start + _BATCH]
        changed = [batch[position] for position in store.changed(batch)]
        if progress:
            progress((len(batch) - len(changed)) * len(store.named_vectors))
        texts = [node.get_content(MetadataMode.EMBED) for node in changed]
        vectors = {
            name: encoders[name].encode(texts, role="document", cache=cache, progress=progress)
            for name in store.named_vectors
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
    """Replace the stored nodes of the source documents of `nodes` (their `ref_doc_id`) by exactly these nodes.

    Only new and changed nodes are embedded; other nodes of these documents are deleted after the new ones are written.
    Nodes without a source document are written and replace none.

    Returns:
        The number of nodes written, and the number of nodes deleted.
    """
    written = upsert_nodes(store, nodes, encoders, cache=cache, progress=progress)
    documents = {node.ref_doc_id for node in nodes if node.ref_doc_id}
    kept = {node.node_id for node in nodes}
    removed = [node_id for node_id in store.document_nodes(sorted(documents)) if node_id not in kept]
    store.delete(removed)
    return written, len(removed)
