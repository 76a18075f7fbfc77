"""The sparse encoder of an evaluation: loaded, and recorded with the system that is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index_ace_finetune.encoders.sparse_encoder import SparseTextEncoder
from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors


def load_sparse_vectors(name: str, *, device: str | None = None) -> StoredSparseVectors:
    """Return vectors by a sparse encoder, none yet; a folder is named by its absolute path, to be found when serving.

    Raises:
        ModelError: if it cannot be loaded, or is not a sparse encoder.
    """
    folder = Path(name).expanduser()
    encoder = SparseTextEncoder.load(str(folder.resolve()) if folder.is_dir() else name, device=device)
    return StoredSparseVectors(encoder)


def record_sparse_encoder(report: dict[str, Any], vectors: StoredSparseVectors) -> None:
    """Add the name and the fingerprint of the sparse encoder to each serving record of a report that needs it."""
    encoder = vectors.encoder
    for serving in (report["serving"], *(one["serving"] for one in report["verdict"]["instead"])):
        fusions = serving.get("fusion"), serving.get("baseline_fusion")
        if any("sparse" in fusion["weights"] for fusion in fusions if fusion):
            serving["sparse_encoder"] = {"name": encoder.name, "fingerprint": encoder.fingerprint}
