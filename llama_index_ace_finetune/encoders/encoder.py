"""Encode texts as unit vectors; shared by mining, training, evaluation and serving."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.cache import VectorCache
from llama_index_ace_finetune.encoders.forward_pass import ForwardPass
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.encoders.load_model import load_model
from llama_index_ace_finetune.encoders.opening import opening
from llama_index_ace_finetune.encoders.prompts import apply_prompts
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.encoders.token_states import TokenStates
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.utils.fork import fork_safe_lock, renew_after_fork
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer


Role = Literal["query", "document"]
Progress = Callable[[int], None]
_CHECKED_TEXTS = 8
_SAME_COSINE = 0.9999


class Encoder:
    """A sentence-transformers model with its prompts and its fingerprint.

    Thread-safe: calls are serialised, since fast tokenizers do not allow concurrent use.
    """

    CHUNK = 1024
    backend: Literal["torch", "onnx", "openvino"] = "torch"
    folder: Path | None = None
    """Of the model, if it was loaded from one."""

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        name: str,
        fingerprint: str,
        settings: EncoderSettings,
        document_fingerprint: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self.model = model
        self.name = name
        self.folder = folder
        self.fingerprint = fingerprint
        self.document_fingerprint = document_fingerprint or fingerprint
        self.settings = settings
        self._lock = fork_safe_lock()
        renew_after_fork(self, Encoder._use_one_thread)
        self._pass = ForwardPass(model, name=name, settings=settings)

    def _use_one_thread(self) -> None:
        """Use one torch thread in a forked child: OpenMP's threads do not survive the fork, and torch would hang."""
        import torch

        torch.set_num_threads(1)
        # tokenizers turns its threads off in a child by itself, unless the variable is set.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"

    @classmethod
    def load(cls, name: str | Path, *, settings: EncoderSettings | None = None) -> Encoder:
        """Load a model by folder or hub name.

        Raises:
            ModelError: if it cannot be found, is incomplete, or is not an embedding model.
        """
        settings = settings or EncoderSettings()
        identity = identify_model(name, settings=settings)
        with opening(name):
            model = load_model(identity.folder, settings)
        apply_prompts(model, identity.prompts)
        if settings.precision == "auto":
            from llama_index_ace_finetune.encoders.precision import choose_precision

            settings = dataclasses.replace(settings, precision=choose_precision(model.device.type))
        return cls(
            model,
            name=str(name),
            fingerprint=identity.fingerprint,
            settings=settings,
            document_fingerprint=identity.documents,
            folder=identity.folder,
        )

    def in_float32(self) -> Encoder:
        """Return this model computing in float32, in which a retriever encodes queries: one short text gains nothing.

        The weights are shared; a model of another backend is returned as it is.
        """
        if self.settings.precision == "float32" or self.backend != "torch":
            return self
        return Encoder(
            self.model,
            name=self.name,
            fingerprint=self.fingerprint,
            settings=dataclasses.replace(self.settings, precision="float32"),
            document_fingerprint=self.document_fingerprint,
            folder=self.folder,
        )

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        dimension = self.model.get_embedding_dimension()
        if dimension is None:
            raise ModelError(
                f"The model {self.name!r} does not define the dimension of its vectors; use another model."
            )
        return min(dimension, self.settings.truncate_dim or dimension)

    @property
    def compute_backend(self) -> str:
        """Name of the backend and precision: vectors of different precisions differ in the last digits."""
        return self.settings.precision

    def vector_key(self, role: Role) -> str:
        """Cache key of the vectors of a role; it keeps models and precisions apart."""
        fingerprint = self.document_fingerprint if role == "document" else self.fingerprint
        return f"{fingerprint}-{self.compute_backend}"

    def encode_queries(self, texts: Sequence[str], **options: object) -> NDArray[np.float32]:
        """`encode` with role "query"."""
        return self.encode(texts, role="query", **options)  # type: ignore[arg-type]

    def encode_documents(self, texts: Sequence[str], **options: object) -> NDArray[np.float32]:
        """`encode` with role "document"."""
        return self.encode(texts, role="document", **options)  # type: ignore[arg-type]

    def encode(
        self,
        texts: Sequence[str],
        *,
        role: Role,
        cache: Path | None = None,
        progress: Progress | None = None,
        padded: bool = False,
    ) -> NDArray[np.float32]:
        """Return unit vectors, float32 [n, dimension], in the order of `texts`.

        Each distinct text is encoded once. With `cache` (a folder) vectors are cached on disk per model and role.
        `progress` is called with the number of newly finished texts. With `padded`, texts of different lengths share a
        batch: faster for a few short texts, but the last digits of a vector then depend on the other texts.

        Raises:
            ModelError: if the model returns NaN or infinite vectors.
        """
        vectors = np.empty((len(texts), self.dimension), np.float32)
        if not len(texts):
            return vectors
        places: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(replace_lone_surrogates(text), []).append(place)
        distinct = list(places)
        store = self._open_cache(cache, distinct, role) if cache else None
        missing = distinct
        if store is not None:
            held, found = store.lookup(distinct)
            if found is not None:
                known = [text for text, is_held in zip(distinct, held, strict=True) if is_held]
                _scatter(vectors, places, known, found, progress)
                missing = [text for text, is_held in zip(distinct, held, strict=True) if not is_held]
        # Long texts first: chunks have similar lengths, and an out-of-memory batch shows at once.
        missing = sorted(missing, key=len, reverse=True)
        for start in range(0, len(missing), self.CHUNK):
            chunk = missing[start : start + self.CHUNK]
            encoded = self._forward(chunk, role, padded=padded)
            if store is not None:
                store.add(chunk, encoded)
            _scatter(vectors, places, chunk, encoded, progress)
        return vectors

    def document_tokenizer(self) -> tuple[Tokenizer, int] | None:
        """Return the tokenizer of documents, and how many tokens the model reads, special ones and prompt included.

        None for a model without a limit, or with a tokenizer that does not return places in the text.
        """
        from llama_index_ace_finetune.encoders.role_modules import role_modules

        module: Any = role_modules(self.model, "document")[0]
        tokenizer = getattr(getattr(module, "tokenizer", None), "backend_tokenizer", None)
        limit = getattr(module, "max_seq_length", None)
        return None if tokenizer is None or limit is None or limit == math.inf else (tokenizer, int(limit))

    @property
    def document_prompt(self) -> str:
        """The text before each document."""
        return self.model.prompts.get("document") or ""

    @property
    def has_token_states(self) -> bool:
        """Whether `encode_tokens` works: the model is a transformer in both roles."""
        from llama_index_ace_finetune.encoders.role_modules import role_modules

        return all(type(role_modules(self.model, role)[0]).__name__ == "Transformer" for role in ("query", "document"))

    def encode_tokens(self, texts: Sequence[str], *, role: Role) -> TokenStates:
        """Return the vectors of `encode` and the states of the last layer of all tokens, from one forward pass.

        Nothing is cached, and the states of all texts are in memory at once.

        Raises:
            ModelError: if the model has no token states, or returns NaN or infinite ones.
        """
        texts = [replace_lone_surrogates(text) for text in texts]
        if not texts:
            nothing = np.zeros(0, np.int64)
            return TokenStates(
                np.empty((0, self.dimension), np.float32), np.empty((0, 0), np.float32), nothing, nothing
            )
        found = self._forward_tokens(texts, role)
        self._require_finite(found.vectors, found.states)
        return found

    def _forward_tokens(self, texts: list[str], role: Role) -> TokenStates:
        with self._lock:
            return self._current_pass().states(texts, role)

    def _current_pass(self) -> ForwardPass:
        self._pass.name = self.name  # a trained model gets that of its final folder
        return self._pass

    def _open_cache(self, root: Path, texts: list[str], role: Role) -> VectorCache:
        """The vector cache of a role; that of the base if documents are embedded as by the base."""
        store = VectorCache(root, fingerprint=self.vector_key(role), role=role, dimension=self.dimension)
        if role == "query" or self.document_fingerprint == self.fingerprint:
            return store
        # This is what the model folder claims; verify it on a few cached vectors of the base.
        held, found = store.lookup(texts)
        sample = [text for text, is_held in zip(texts, held, strict=True) if is_held][:_CHECKED_TEXTS]
        if found is not None and (self._forward(sample, role) * found[: len(sample)]).sum(axis=1).min() > _SAME_COSINE:
            return store
        return VectorCache(root, fingerprint=self.vector_key("query"), role=role, dimension=self.dimension)

    def weights_changed(self) -> None:
        """Mark the model's weights as changed in place; call it after optimiser steps, before encoding.

        Loading a state dict is detected automatically; fused optimisers change weights without a trace.
        """
        self._pass.weights_changed()

    def packs(self, texts: Sequence[str], role: Role) -> bool:
        """Whether texts of a role use the fast forward pass, which was verified against the model on a few texts."""
        with self._lock:
            return bool(len(texts)) and self._current_pass().packs(
                [replace_lone_surrogates(text) for text in texts], role
            )

    def _forward(self, texts: list[str], role: Role, *, padded: bool = False) -> NDArray[np.float32]:
        with self._lock:
            vectors = self._current_pass().vectors(texts, role, padded=padded)
        self._require_finite(vectors)
        return vectors

    def _require_finite(self, *vectors: NDArray[np.float32]) -> None:
        if not all(np.isfinite(one).all() for one in vectors):
            raise ModelError(f"The model {self.name!r} returns NaN or infinite vectors; train or copy it again.")


def _scatter(
    target: NDArray[np.float32],
    places: dict[str, list[int]],
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    progress: Progress | None,
) -> None:
    for text, vector in zip(texts, vectors, strict=True):
        target[places[text]] = vector
    if progress:
        progress(sum(len(places[text]) for text in texts))
