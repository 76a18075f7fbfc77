"""FineTunedEmbedding: a fine-tuned model as a LlamaIndex embedding."""

from __future__ import annotations

import asyncio
import copy
import uuid
from typing import Any, Literal

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.constants import DEFAULT_EMBED_BATCH_SIZE
from llama_index.core.storage.kvstore.types import BaseKVStore

from llama_index_ace_finetune.encoders.encoder import Encoder, Role
from llama_index_ace_finetune.encoders.exports.load_encoder import Backend, load_encoder
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.encoders.query_cache import QueryCache
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError
from llama_index_ace_finetune.utils.fork import fork_safe_lock

_WARM_UP_WORDS = (4, 12, 20, 28, 36)


def _checked_cache(cache: Any) -> BaseKVStore | None:
    if cache is not None and not isinstance(cache, BaseKVStore):
        raise AceFinetuneError(
            f"The embeddings_cache is a {type(cache).__name__}; give one of LlamaIndex's key-value stores."
        )
    return cache


class FineTunedEmbedding(BaseEmbedding):
    """A sentence-transformers model with its own query and document prompts.

    The weights are loaded at the first text, or by `warm_up`. If the model's folder holds an export of `ace-finetune
    export`, that is used, without torch, unless `backend` says otherwise. All settings that affect vectors are fields,
    so objects from `from_dict(to_dict())`, pickling and copying return the same vectors; `fingerprint` identifies the
    model's content, so that caches and indexes notice a retrained model in the same folder.

    An `embeddings_cache` is stored privately, and the field of that name stays None: vectors are cached per fingerprint
    and role, so several models can share one cache. It is not part of `to_dict` or of a pickle.

    Raises:
        ModelError: at construction, if the model is missing, incomplete, or has another fingerprint than `fingerprint`.
    """

    device: str | None = Field(default=None, description="Torch device; the best one by default.")
    query_prompt: str | None = Field(default=None, description="Overrides the model's own query prompt.")
    text_prompt: str | None = Field(default=None, description="Overrides the model's own document prompt.")
    max_length: int | None = Field(default=None, description="Tokens per text; the model's own limit by default.")
    truncate_dim: int | None = Field(default=None, description="Keep only the first dimensions.")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="Of the forward pass.")
    trust_remote_code: bool = Field(default=False, description="Run code that comes with the model.")
    backend: Backend = Field(default="auto", description="torch, onnx, openvino; auto takes an export if there is one.")
    query_cache_size: int = Field(default=1024, ge=0, description="Query vectors cached in memory; 0 caches none.")
    fingerprint: str = Field(default="", description="Content of the model; filled in at construction.")

    _encoder: Encoder | None = PrivateAttr(default=None)
    _loading: Any = PrivateAttr(default=None)
    _cache: BaseKVStore | None = PrivateAttr(default=None)
    _query_cache: Any = PrivateAttr(default=None)
    _document_fingerprint: str = PrivateAttr(default="")
    _is_tuned: bool = PrivateAttr(default=True)

    def __init__(self, model_name: str, *, embed_batch_size: int = DEFAULT_EMBED_BATCH_SIZE, **fields: Any) -> None:
        # The base class would look up vectors by text only, regardless of model and prompt.
        cache = fields.pop("embeddings_cache", None)
        super().__init__(model_name=model_name, embed_batch_size=embed_batch_size, **fields)
        self._cache = _checked_cache(cache)
        self._loading = fork_safe_lock()
        self._query_cache = QueryCache(self.query_cache_size)
        identity = identify_model(self.model_name, settings=self._settings())
        if self.fingerprint:
            self._require_unchanged(identity.fingerprint)
        self.fingerprint = identity.fingerprint
        self._document_fingerprint = identity.documents
        record = read_provenance(identity.folder)
        self._is_tuned = record is not None and (record.get("selection") or {}).get("shipped") != "base"

    @classmethod
    def from_encoder(cls, encoder: Encoder) -> FineTunedEmbedding:
        """Wrap a loaded encoder."""
        settings = encoder.settings
        embedding = cls(
            encoder.name,
            device=settings.device,
            query_prompt=settings.query_prompt,
            text_prompt=settings.document_prompt,
            max_length=settings.max_seq_length,
            truncate_dim=settings.truncate_dim,
            precision=settings.precision,
            trust_remote_code=settings.trust_remote_code,
            backend=encoder.backend,
        )
        embedding._encoder = encoder
        return embedding

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises the class."""
        return "FineTunedEmbedding"

    def __setattr__(self, name: str, value: Any) -> None:
        """Store a cache that is set later privately, too."""
        if name == "embeddings_cache":
            self._cache = _checked_cache(value)
        else:
            super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the weights, the lock and cached vectors: unpickling loads the model by its name."""
        bare = copy.copy(self)
        bare._encoder = bare._loading = bare._query_cache = bare._cache = None
        return super(FineTunedEmbedding, bare).__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild from the fields; unlike LlamaIndex's own, raises if the model has changed since."""
        self.__init__(**state["__dict__"])  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> FineTunedEmbedding:
        """Copies share the loaded weights, which are read-only."""
        return copy.copy(self)

    @property
    def encoder(self) -> Encoder:
        """The loaded model."""
        if self._encoder is None:
            with self._loading:
                if self._encoder is None:
                    encoder = load_encoder(self.model_name, settings=self._settings(), backend=self.backend)
                    self._require_unchanged(encoder.fingerprint)
                    self._encoder = encoder
        return self._encoder

    @property
    def document_fingerprint(self) -> str:
        """Fingerprint of the document vectors: the base model's if training changed only the query side.

        An index stays valid as long as this stays the same.
        """
        return self._document_fingerprint

    @property
    def is_tuned(self) -> bool:
        """Whether the weights are tuned; False for a model not trained here, or whose training kept the base."""
        return self._is_tuned

    @property
    def dimension(self) -> int:
        """Length of a vector; loads the model."""
        return self.encoder.dimension

    def get_query_embeddings(self, queries: list[str]) -> list[list[float]]:
        """Return the vectors of several queries, embedded in one batch."""
        return self._embed(queries, "query")

    def warm_up(self) -> None:
        """Load the model and embed texts of a few lengths, so that the first query is fast."""
        for words in _WARM_UP_WORDS:
            self.encoder.encode_queries(["word " * words])

    def _require_unchanged(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise ModelError(
                f"The model {self.model_name!r} is not the one that was used before (its fingerprint is {fingerprint}, "
                f"not {self.fingerprint}); embed the memories again with it, or give the folder of the earlier model."
            )

    def _settings(self) -> EncoderSettings:
        return EncoderSettings(
            max_seq_length=self.max_length,
            query_prompt=self.query_prompt,
            document_prompt=self.text_prompt,
            truncate_dim=self.truncate_dim,
            precision=self.precision,
            trust_remote_code=self.trust_remote_code,
            device=self.device,
        )

    def _embed(self, texts: list[str], role: Role) -> list[list[float]]:
        if self._cache is None:
            vectors = self.encoder.encode(texts, role=role, padded=role == "query")
            return [vector.tolist() for vector in vectors]
        collection = f"{self.encoder.vector_key(role)}/{role}"
        found: dict[str, list[float]] = {}
        for text in dict.fromkeys(texts):
            cached = self._cache.get(text, collection=collection)
            if cached:
                found[text] = [float(value) for value in next(iter(cached.values()))]
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        for text, vector in zip(missing, self.encoder.encode(missing, role=role), strict=True):
            found[text] = vector.tolist()
            # The format in which LlamaIndex's own classes cache a vector.
            self._cache.put(text, {str(uuid.uuid4()): found[text]}, collection=collection)
        return [list(found[text]) for text in texts]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._query_cache.get(  # type: ignore[no-any-return]
            self.encoder.vector_key("query"), query, lambda: self._embed([query], "query")[0]
        )

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed([text], "document")[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, "document")

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
