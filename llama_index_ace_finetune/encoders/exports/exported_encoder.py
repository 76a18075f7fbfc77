"""ExportedEncoder: an Encoder that needs neither torch nor transformers."""

from __future__ import annotations

import dataclasses
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llama_index_ace_finetune.encoders.encoder import Encoder, Role
from llama_index_ace_finetune.encoders.exports.record import TOKENIZER, ExportRecord, file_hashes
from llama_index_ace_finetune.encoders.exports.runtime import ExportBackend, Runtime, open_runtime
from llama_index_ace_finetune.encoders.exports.threads import usable_threads
from llama_index_ace_finetune.encoders.exports.token_batches import TokenBatch, token_batches
from llama_index_ace_finetune.encoders.identity import ModelIdentity, identify_model
from llama_index_ace_finetune.encoders.opening import opening
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.encoders.token_states import TokenStates
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.ranking.dense import unit_rows

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class ExportedEncoder(Encoder):
    """The export of a model folder, run by ONNX Runtime or OpenVINO.

    It has the fingerprint of its model, so it serves the same index; an export is kept only if it ranks dev queries as
    well. Calls from several threads run in parallel.
    """

    def __init__(
        self, identity: ModelIdentity, folder: Path, record: ExportRecord, *, name: str, settings: EncoderSettings
    ) -> None:
        self.name = name
        self.fingerprint = identity.fingerprint
        self.document_fingerprint = identity.documents
        # An export computes in the precision that was evaluated on dev.
        self.settings = dataclasses.replace(settings, precision="float32") if settings.precision == "auto" else settings
        self.backend = record.backend
        self._record = record
        self._prompts = {"query": identity.prompts.query, "document": identity.prompts.document}
        self._tokenizer = _open_tokenizer(folder / TOKENIZER, _shorter(settings.max_seq_length, record.max_seq_length))
        self._loading = threading.Lock()
        opened: dict[str, Runtime] = {
            file: open_runtime(record.backend, folder / file, precision=record.precision, threads=usable_threads())
            for file in set(record.graphs.values())
        }
        self._runtimes = {role: opened[file] for role, file in record.graphs.items()}

    @classmethod
    def open(
        cls, name: str | Path, backend: ExportBackend, *, settings: EncoderSettings | None = None
    ) -> ExportedEncoder:
        """Open the export of a model folder or hub name.

        Raises:
            MissingRuntimeError: if the backend's package is not installed.
            ModelError: if the export is missing, corrupt, or made from other weights.
        """
        settings = settings or EncoderSettings()
        identity = identify_model(name, settings=settings)
        with opening(name):
            return cls._open(identity, backend, name=str(name), settings=settings)

    @classmethod
    def _open(
        cls, identity: ModelIdentity, backend: ExportBackend, *, name: str, settings: EncoderSettings
    ) -> ExportedEncoder:
        folder = identity.folder / backend
        record = ExportRecord.read(folder)
        if record.source != identity.content:
            raise ModelError(
                f"The export in {str(folder)!r} was made from other weights than those of the model folder; "
                f"export again with `ace-finetune export --backend {backend}`."
            )
        if file_hashes(folder) != record.files:
            raise ModelError(
                f"The export in {str(folder)!r} is corrupt (its files have changed); "
                f"export again with `ace-finetune export --backend {backend}`."
            )
        return cls(identity, folder, record, name=name, settings=settings)

    @cached_property
    def model(self) -> SentenceTransformer:  # type: ignore[override]
        """The model that the export was made from; loads torch."""
        with self._loading:
            return Encoder.load(self.name, settings=self.settings).model

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return min(self._record.dimension, self.settings.truncate_dim or self._record.dimension)

    @property
    def compute_backend(self) -> str:
        """Name of the backend and precision."""
        return f"{self.backend}-{self._runtimes['query'].precision}"

    def tokens(self, texts: list[str], role: Role) -> list[list[int]]:
        """Return the token ids of each text with the prompt of its role, truncated to the maximum length."""
        prompt = self._prompts[role]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast([prompt + text for text in texts])]

    def document_tokenizer(self) -> tuple[Tokenizer, int] | None:
        """See `Encoder.document_tokenizer`."""
        return self._tokenizer, int((self._tokenizer.truncation or {})["max_length"])

    @property
    def document_prompt(self) -> str:
        """See `Encoder.document_prompt`."""
        return self._prompts["document"]

    def _forward(self, texts: list[str], role: Role, *, padded: bool = False) -> NDArray[np.float32]:
        batches = self._batches(texts, role)
        vectors = np.empty((len(texts), self._record.dimension), np.float32)
        for batch, rows in zip(batches, self._runtimes[role](batches), strict=True):
            vectors[batch.rows] = rows
        vectors = self._truncated(vectors)
        if not np.isfinite(vectors).all():
            raise ModelError(
                f"The {self.backend} export of {self.name!r} returns NaN or infinite vectors; export again."
            )
        return vectors

    @property
    def has_token_states(self) -> bool:
        """Whether `encode_tokens` works: exports of earlier versions give no token states."""
        return self._record.token_states

    def _forward_tokens(self, texts: list[str], role: Role) -> TokenStates:
        if not self.has_token_states:
            raise ModelError(
                f"The {self.backend} export of {self.name!r} gives no token states, since an earlier version wrote it; "
                f"export again with `ace-finetune export --backend {self.backend}`."
            )
        batches = self._batches(texts, role)
        parts = []
        for batch, (vectors, states) in zip(batches, self._runtimes[role].with_token_states(batches), strict=True):
            lengths = batch.attention_mask.sum(axis=1)
            is_token = batch.attention_mask.astype(bool)
            found = TokenStates(self._truncated(vectors), states[is_token], lengths, batch.token_ids[is_token])
            parts.append((batch.rows, found))
        return TokenStates.in_order(parts)

    def _batches(self, texts: list[str], role: Role) -> list[TokenBatch]:
        return token_batches(self.tokens(texts, role), padding_id=self._record.padding_id)

    def _truncated(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return unit_rows(vectors[:, : self.dimension]) if self.dimension < vectors.shape[1] else vectors


def _shorter(wanted: int | None, own: int) -> int:
    return own if wanted is None else min(wanted, own)


def _open_tokenizer(file: Path, length: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ModelError(
            f"The tokenizer {str(file)!r} cannot be read ({error}); export again with `ace-finetune export`."
        ) from error
    tokenizer.no_padding()
    # The truncation side is that of the file; the rest is set here.
    side = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.enable_truncation(length, direction=str(side).lower())
    return tokenizer
