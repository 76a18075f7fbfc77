"""SparseTextEncoder: a learned sparse encoder (such as SPLADE), whose vectors have one weight per vocabulary entry."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy.sparse import csr_array

from llama_index_ace_finetune.encoders.identity import ModelIdentity, identify_model
from llama_index_ace_finetune.encoders.load_model import check_weights
from llama_index_ace_finetune.encoders.model_files import check_module_classes, read_model_json
from llama_index_ace_finetune.encoders.opening import opening
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError, quoted
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder
    from torch import Tensor

_SPARSE_MODULE: Final = "sentence_transformers.sparse_encoder."
# The logits of a batch are [texts, tokens, vocabulary]: about 250 MB for 8 texts of 256 tokens.
_BATCH: Final = 8
_CHUNK: Final = 256


class SparseTextEncoder:
    """A `SparseEncoder` of sentence-transformers with its fingerprint.

    Source: Formal, Piwowarski, Clinchant, "SPLADE: Sparse lexical and expansion model for first stage ranking", SIGIR
    2021. Thread-safe: calls are serialised.
    """

    def __init__(self, model: SparseEncoder, *, name: str, fingerprint: str) -> None:
        self.model, self.name, self.fingerprint = model, name, fingerprint
        self._lock = fork_safe_lock()
        with opening(name):
            # The model itself may give the width of its hidden states as its dimension.
            self.dimension = int(self._tensor(["a"], "document").shape[1])

    @classmethod
    def load(cls, name: str | Path, *, device: str | None = None, fingerprint: str | None = None) -> SparseTextEncoder:
        """Load a sparse encoder by folder or hub name; only safetensors are read, and only known classes are built.

        Args:
            name: of the encoder.
            device: torch device.
            fingerprint: it must have; by default any.

        Raises:
            ModelError: if it cannot be found, is incomplete, is not a sparse encoder, or has another fingerprint.
        """
        identity = identify_sparse_encoder(name)
        if fingerprint is not None and identity.fingerprint != fingerprint:
            raise ModelError(
                f"The sparse encoder {quoted(str(name), 240)} is not the one that the run was evaluated with; restore "
                "that one, or make the run again with --sparse-encoder."
            )
        with opening(name):
            from sentence_transformers import SparseEncoder

            model = SparseEncoder(
                str(identity.folder), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
            )
            check_weights(model, identity.folder)
        model.eval()
        return cls(model, name=str(name), fingerprint=identity.fingerprint)

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """Return query vectors as CSR rows, float32 [n, dimension], in the order of `texts`.

        Raises:
            ModelError: if the model returns NaN or infinite weights.
        """
        return self._encode(texts, "query")

    def encode_documents(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> csr_array:
        """Return document vectors as `encode_queries`; `progress` is called with the number of newly encoded texts."""
        return self._encode(texts, "document", progress)

    def _encode(
        self, texts: Sequence[str], role: Literal["query", "document"], progress: Callable[[int], None] | None = None
    ) -> csr_array:
        from scipy.sparse import vstack

        parts = [csr_array((0, self.dimension), dtype=np.float32)]
        for start in range(0, len(texts), _CHUNK):
            chunk = [replace_lone_surrogates(text) for text in texts[start : start + _CHUNK]]
            parts.append(self._forward(chunk, role))
            if progress:
                progress(len(chunk))
        return csr_array(vstack(parts, format="csr", dtype=np.float32))

    def _forward(self, texts: list[str], role: Literal["query", "document"]) -> csr_array:
        found = self._tensor(texts, role)
        rows, columns = found.indices().numpy()
        weights = found.values().float().numpy()
        if not np.isfinite(weights).all():
            raise ModelError(f"The sparse encoder {self.name!r} returns NaN or infinite weights; copy it again.")
        return csr_array((weights, (rows, columns)), shape=(len(texts), self.dimension))

    def _tensor(self, texts: list[str], role: Literal["query", "document"]) -> Tensor:
        encode: Any = self.model.encode_query if role == "query" else self.model.encode_document
        with self._lock:
            found: Tensor = encode(texts, batch_size=_BATCH, show_progress_bar=False, save_to_cpu=True)
        return found.coalesce()


def identify_sparse_encoder(name: str | Path) -> ModelIdentity:
    """Return the folder and the fingerprint of a sparse encoder without loading it.

    Raises:
        ModelError: if it cannot be found, is incomplete, or is not a sparse encoder.
    """
    # No prompts besides those in its files, which the model applies by itself.
    identity = identify_model(name, settings=EncoderSettings(query_prompt="", document_prompt=""))
    check_module_classes(identity.folder)
    _require_sparse_module(identity.folder)
    return identity


def _require_sparse_module(folder: Path) -> None:
    """Refuse other models: sentence-transformers would give them a last module with random weights."""
    named = [*folder.rglob("modules.json"), *folder.rglob("router_config.json")]
    if not any(_SPARSE_MODULE in json.dumps(read_model_json(file)) for file in named):
        raise ModelError(
            f"The model {quoted(str(folder), 240)} is no sparse encoder (modules.json names no module of "
            "sentence_transformers.sparse_encoder); give one that `SparseEncoder.save_pretrained` wrote."
        )
