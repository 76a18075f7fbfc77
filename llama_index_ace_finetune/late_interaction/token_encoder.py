"""TokenEncoder: texts as unit vectors of their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder, Role
from llama_index_ace_finetune.encoders.token_states import TokenStates
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.utils.ragged import offsets_of

_CHUNK = 256


class TokenEncoder:
    """Token vectors of an encoder: normalised states of its last layer, projected to fewer dimensions if wanted.

    All tokens of a text count, also those of its prompt and special tokens, as in a sentence-transformers
    `MultiVectorEncoder` without a skiplist; texts are truncated as by the encoder. Thread-safe like the encoder.

    Args:
        encoder: the model.
        projection: float32 [width, dimension], applied before normalisation; None for the states themselves.

    Raises:
        ModelError: if the projection is not a finite matrix.
    """

    def __init__(self, encoder: Encoder, projection: NDArray[np.float32] | None = None) -> None:
        if projection is not None and (projection.ndim != 2 or not np.isfinite(projection).all()):
            raise ModelError("The projection of the token states is not a matrix of finite numbers; train it again.")
        self.encoder = encoder
        self.projection = None if projection is None else np.ascontiguousarray(projection, np.float32)

    @cached_property
    def dimension(self) -> int:
        """Dimension of the token vectors."""
        return self.encode_queries(["x"]).dimension if self.projection is None else int(self.projection.shape[1])

    @property
    def fingerprint(self) -> str:
        """32 hex digits over the model of documents and the projection; token vectors of others are not comparable."""
        digest = hashlib.sha256(self.encoder.document_fingerprint.encode())
        if self.projection is not None:
            digest.update(f"{self.projection.shape}".encode() + self.projection.astype("<f4").tobytes())
        return digest.hexdigest()[:32]

    def encode_queries(self, texts: Sequence[str]) -> TokenVectors:
        """Return the token vectors of queries."""
        return self.encode_both(texts, role="query")[1]

    def encode_documents(self, texts: Sequence[str]) -> TokenVectors:
        """Return the token vectors of documents."""
        return self.encode_both(texts, role="document")[1]

    def encode_both(self, texts: Sequence[str], *, role: Role) -> tuple[NDArray[np.float32], TokenVectors]:
        """Return the vectors of `Encoder.encode`, float32 [n, d], and the token vectors, from one forward pass.

        Raises:
            ModelError: if the model has no token states, they are NaN or infinite, or of another width than the
                projection.
        """
        if not len(texts):
            no_ids = np.zeros(0, np.int64)
            nothing = TokenVectors(np.empty((0, self.dimension), np.float32), np.zeros(1, np.int64), no_ids)
            return np.empty((0, self.encoder.dimension), np.float32), nothing
        # Long texts first: chunks have similar lengths. States are projected per chunk, which bounds their memory.
        order = np.array(sorted(range(len(texts)), key=lambda place: -len(texts[place])), np.int64)
        vectors, parts = [], []
        for start in range(0, len(order), _CHUNK):
            found = self.encoder.encode_tokens([texts[place] for place in order[start : start + _CHUNK]], role=role)
            vectors.append(found.vectors)
            parts.append(self._project(found))
        back = np.argsort(order, kind="stable")
        return np.concatenate(vectors)[back], TokenVectors.concatenate(parts).select(back)

    def project(self, tokens: TokenVectors) -> TokenVectors:
        """Return token vectors by this projection from those of the same texts without one."""
        if self.projection is None:
            return tokens
        return TokenVectors(unit_rows(tokens.vectors @ self.projection), tokens.offsets, tokens.token_ids)

    def _project(self, found: TokenStates) -> TokenVectors:
        states = found.states
        if self.projection is not None:
            if states.shape[1] != len(self.projection):
                raise ModelError(
                    f"The projection is for token states of {len(self.projection)} dimensions, and those of "
                    f"{self.encoder.name!r} have {states.shape[1]}; use the projection that was trained with the model."
                )
            states = states @ self.projection
        return TokenVectors(unit_rows(states), offsets_of(found.lengths), found.token_ids)
