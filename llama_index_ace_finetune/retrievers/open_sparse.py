"""Open or build the sparse vectors of a store's memories; ones that cannot be opened are logged, and not used."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llama_index.core.schema import MetadataMode

from llama_index_ace_finetune.encoders.encoder import Progress
from llama_index_ace_finetune.encoders.sparse_encoder import SparseTextEncoder
from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.retrievers.open_or_warn import open_or_warn
from llama_index_ace_finetune.retrievers.retriever_options import SearchOptions
from llama_index_ace_finetune.run_folder import RunFolder, sparse_folder
from llama_index_ace_finetune.serving import Serving
from llama_index_ace_finetune.stores.memory_store import MemoryStore

_SKIPPED: Final = "the sparse encoder is skipped"


def open_sparse_vectors(
    index: Path | None, serving: Serving | None, options: SearchOptions
) -> StoredSparseVectors | None:
    """Return the sparse vectors of an index; None, with a warning, if they cannot be used.

    None without a warning if the options do not use a sparse encoder, or the run was evaluated without one.
    """
    if index is None or serving is None or serving.sparse_encoder is None or not _uses_sparse_encoder(options):
        return None
    return open_or_warn(_SKIPPED, lambda: StoredSparseVectors.open(sparse_folder(index), load_sparse_encoder(serving)))


def build_sparse_vectors(
    store: MemoryStore, run: RunFolder | None, options: SearchOptions, *, index: Path | None = None
) -> StoredSparseVectors | None:
    """Encode the memories of a new store, in memory or in the folder of its `index`; None as `open_sparse_vectors`."""
    serving = None if run is None else run.serving()
    if serving is None or serving.sparse_encoder is None or not _uses_sparse_encoder(options):
        return None
    vectors = open_or_warn(_SKIPPED, lambda: StoredSparseVectors(load_sparse_encoder(serving)))
    if vectors is None:
        return None
    add_memories(vectors, store)
    if index is None:
        return vectors
    vectors.save(sparse_folder(index))
    return StoredSparseVectors.open(sparse_folder(index), vectors.encoder)


def load_sparse_encoder(serving: Serving, *, device: str | None = None) -> SparseTextEncoder:
    """Load the sparse encoder that a run was evaluated with.

    Raises:
        ModelError: if it cannot be loaded, or has changed since.
    """
    record = serving.sparse_encoder
    assert record is not None
    return SparseTextEncoder.load(record.name, device=device, fingerprint=record.fingerprint)


def add_memories(vectors: StoredSparseVectors, store: MemoryStore, *, progress: Progress | None = None) -> int:
    """Encode the memories of a store that have no vector; return their number."""
    return vectors.add((node.get_content(MetadataMode.EMBED) for node in store.nodes()), progress=progress)


def _uses_sparse_encoder(options: SearchOptions) -> bool:
    weights = options.get("leg_weights"), options.get("baseline_leg_weights")
    return any((by_leg or {}).get("sparse") for by_leg in weights)
