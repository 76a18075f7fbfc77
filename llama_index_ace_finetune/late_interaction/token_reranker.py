"""TokenReranker: MaxSim scores of memories, from their stored token vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.max_sim import max_sim, max_sim_scores
from llama_index_ace_finetune.late_interaction.projection import principal_projection
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.token_store import TokenStore
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.late_interaction.trained_projection import read_trained_projection

_BATCH = 1024
_SAMPLED_TEXTS = 2048
_MEASURED_TEXTS = 256
_TRIED_POOLING = (1, 2, 3, 4)  # three tokens per vector already lose a tenth of MRR@10 on short texts


class TokenReranker:
    """Scores memories for a query by late interaction (ColBERT's MaxSim).

    Args:
        encoder: encodes queries, and memories that are upserted.
        store: the token vectors of the memories.

    Raises:
        StoreError: if the store's token vectors are of another model or projection.
    """

    def __init__(self, encoder: TokenEncoder, store: TokenStore) -> None:
        if store.fingerprint != encoder.fingerprint:
            raise StoreError(
                f"The token vectors in {str(store.folder or 'memory')!r} were made by another model or projection than "
                f"that of {encoder.encoder.name!r}; build them again with this model."
            )
        self.encoder = encoder
        self.store = store

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        settings: TokenSettings | None = None,
        projection: NDArray[np.float32] | None = None,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> TokenReranker:
        """Encode and store memories.

        Args:
            encoder: the model.
            ids: ids of the memories; rows of the store's `tokens` have this order.
            texts: their texts.
            settings: how the token vectors are stored.
            projection: of the token states; by default the one that was trained with the model, or else, if `settings`
                has a dimension, the principal components of a sample of the texts.
            folder: write the token vectors there, replacing those in it; by default they are kept in memory.
            progress: called with the number of newly encoded texts.

        Raises:
            StoreError: if an id occurs twice.
            OutputExistsError: if the folder holds something else.
            ModelError: if the trained projection in the model's folder cannot be used.
        """
        settings, sample = settings or TokenSettings(), None
        if projection is None:
            projection, sample = _projection(encoder, texts, settings)
        tokens = TokenEncoder(encoder, projection)
        store = TokenStore(tokens.dimension, tokens.fingerprint, settings=settings, projection=tokens.projection)
        reranker = cls(tokens, store)
        reranker._upsert(ids, texts, sample, progress)
        return cls(tokens, store.save(folder)) if folder else reranker

    @classmethod
    def open(cls, folder: str | Path, encoder: Encoder) -> TokenReranker:
        """Open the token vectors in a folder, and encode queries as they were encoded.

        Raises:
            StoreError: if the folder is missing, damaged, or of another model than `encoder`.
        """
        store = TokenStore.open(folder)
        return cls(TokenEncoder(encoder, store.projection), store)

    def score(self, query: NDArray[np.float32], ids: Sequence[str]) -> NDArray[np.float64]:
        """Return the MaxSim of a query's token vectors, float32 [q, d], and each memory, float64 [n] in [-1, 1].

        A memory or a query without tokens gets -1. Scores are those of `score_rows`, to the last digit.

        Raises:
            StoreError: if a memory has no stored token vectors, or a file of the store has been damaged.
        """
        tokens = self.store.tokens
        return max_sim(query, tokens, tokens.rows(ids))

    def score_rows(self, queries: TokenVectors, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the scores of many queries and their candidates: rows of the store, int [n, u], padded with -1."""
        return max_sim_scores(queries, self.store.tokens, candidates)

    def upsert(self, ids: Sequence[str], texts: Sequence[str], *, progress: Progress | None = None) -> None:
        """Encode and store memories, replacing those with the same ids."""
        self._upsert(ids, texts, None, progress)

    def delete(self, ids: Iterable[str]) -> None:
        """Delete the token vectors of memories; unknown ids are ignored."""
        self.store.delete(ids)

    def _upsert(
        self, ids: Sequence[str], texts: Sequence[str], known: _Encoded | None, progress: Progress | None
    ) -> None:
        for start in range(0, len(ids), _BATCH):
            part = slice(start, start + _BATCH)
            if known is None:
                tokens = self.encoder.encode_documents(texts[part])
            else:
                tokens = self._completed(known, texts, np.arange(len(ids))[part])
            self.store.upsert(ids[part], tokens)
            if progress:
                progress(len(ids[part]))

    def _completed(self, known: _Encoded, texts: Sequence[str], places: NDArray[np.int64]) -> TokenVectors:
        """Return the token vectors of the texts at some places, and encode those that are not known."""
        taken = np.flatnonzero(np.isin(known.places, places))
        new = np.setdiff1d(places, known.places)
        encoded = self.encoder.encode_documents([texts[place] for place in new])
        order = np.argsort(np.concatenate([known.places[taken], new]))
        return TokenVectors.concatenate([known.tokens.select(taken), encoded]).select(order)


def settings_within(limit: float, encoder: Encoder, texts: Sequence[str]) -> TokenSettings:
    """Return the settings with the least pooling, up to 4, with which texts need at most `limit` bytes each.

    The bytes are the mean of 256 of the texts. The default settings are returned if no pooling is enough.

    Raises:
        ModelError: if the trained projection in the model's folder cannot be used.
    """
    default = TokenSettings()
    places = np.linspace(0, len(texts) - 1, min(len(texts), _MEASURED_TEXTS)).astype(np.int64)
    measured = [texts[place] for place in places]
    projection, sample = _projection(encoder, measured, default)
    tokens = TokenEncoder(encoder, projection)
    encoded = sample.tokens if sample else tokens.encode_documents(measured)  # the sample is all of so few texts
    ids = [str(place) for place in range(len(measured))]
    for pooling in _TRIED_POOLING:
        settings = replace(default, pooling=pooling)
        store = TokenStore(tokens.dimension, tokens.fingerprint, settings=settings, projection=tokens.projection)
        store.upsert(ids, encoded)
        if store.bytes_per_memory <= limit:
            return settings
    return default


@dataclass(frozen=True, eq=False)
class _Encoded:
    """Token vectors of the texts at some places, ascending int64 [n], of a sequence."""

    places: NDArray[np.int64]
    tokens: TokenVectors


def choose_projection(encoder: Encoder, texts: Sequence[str], settings: TokenSettings) -> NDArray[np.float32] | None:
    """Return the projection trained with the model, else principal components of the token states of some texts.

    None if all dimensions are kept.

    Raises:
        ModelError: if the trained projection in the model's folder cannot be used.
    """
    return _projection(encoder, texts, settings)[0]


def _projection(
    encoder: Encoder, texts: Sequence[str], settings: TokenSettings
) -> tuple[NDArray[np.float32] | None, _Encoded | None]:
    """Return `choose_projection`, and the projected token vectors of the sample that it used."""
    trained = read_trained_projection(encoder.folder) if encoder.folder else None
    if trained is not None or settings.dimension is None or not len(texts):
        return trained, None
    places = np.linspace(0, len(texts) - 1, min(len(texts), _SAMPLED_TEXTS)).astype(np.int64)
    tokens = TokenEncoder(encoder).encode_documents([texts[place] for place in places])
    projection = principal_projection(tokens.vectors, min(settings.dimension, tokens.dimension))
    return projection, _Encoded(places, TokenEncoder(encoder, projection).project(tokens))
