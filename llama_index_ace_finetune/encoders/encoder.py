"""Text to unit vectors, the same way in mining, training, evaluation and serving."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.cache import VectorCache
from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint
from llama_index_ace_finetune.encoders.fingerprint import fingerprint_folder
from llama_index_ace_finetune.encoders.prompts import Prompts, resolve_prompts
from llama_index_ace_finetune.errors import ModelError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

Role = Literal["query", "document"]
Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What changes a vector, and where it is computed.

    Attributes:
        max_seq_length: tokens per text; the checkpoint's own by default.
        query_prompt: overrides the prompt that the checkpoint or its family gives; None leaves it.
        document_prompt: likewise for documents.
        truncate_dim: keep the first dimensions only (Matryoshka models); all by default.
        precision: "float32", or "bfloat16" for autocast where the processor is faster with it.
        trust_remote_code: run code that comes with a model; off unless asked for.
        device: torch device; the best one by default. Does not enter the fingerprint.
        batch_size: texts per forward pass. Does not enter the fingerprint.
    """

    max_seq_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    truncate_dim: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False
    device: str | None = None
    batch_size: int = 64

    def vector_settings(self) -> dict[str, object]:
        """The settings that change a vector."""
        kept = asdict(self)
        for name in ("device", "batch_size", "trust_remote_code"):
            del kept[name]
        return kept


class Encoder:
    """A sentence-transformers model with its prompts and its identity.

    Safe to call from several threads: calls take turns, since fast tokenizers do not allow concurrent use.
    """

    CHUNK = 1024

    def __init__(self, model: SentenceTransformer, *, name: str, fingerprint: str, settings: EncoderSettings) -> None:
        self.model = model
        self.name = name
        self.fingerprint = fingerprint
        self.settings = settings
        self._lock = threading.Lock()

    @classmethod
    def load(cls, name: str | Path, *, settings: EncoderSettings | None = None) -> Encoder:
        """Load a model by folder or hub name.

        Raises:
            ModelError: if it cannot be found, is incomplete, or is not an embedding model.
        """
        settings = settings or EncoderSettings()
        folder = resolve_checkpoint(name)
        model = _load_model(folder, settings)
        prompts = resolve_prompts(str(name), model.prompts)
        apply_prompts(
            model,
            Prompts(
                query=prompts.query if settings.query_prompt is None else settings.query_prompt,
                document=prompts.document if settings.document_prompt is None else settings.document_prompt,
            ),
        )
        identity = {**settings.vector_settings(), "prompts": dict(model.prompts)}
        return cls(model, name=str(name), fingerprint=fingerprint_folder(folder, identity), settings=settings)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        dimension = self.model.get_embedding_dimension()
        if dimension is None:
            raise ModelError(f"The model {self.name!r} does not say how long its vectors are; use another model.")
        return min(dimension, self.settings.truncate_dim or dimension)

    def encode_queries(self, texts: Sequence[str], **options: object) -> NDArray[np.float32]:
        """`encode` in the role of queries."""
        return self.encode(texts, role="query", **options)  # type: ignore[arg-type]

    def encode_documents(self, texts: Sequence[str], **options: object) -> NDArray[np.float32]:
        """`encode` in the role of documents."""
        return self.encode(texts, role="document", **options)  # type: ignore[arg-type]

    def encode(
        self, texts: Sequence[str], *, role: Role, cache: Path | None = None, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Return unit vectors, float32 [n, dimension], in the order of `texts`.

        Each distinct text is encoded once. With `cache` (a folder) vectors are kept on disk per model and role.
        `progress` is called with the number of texts just finished.

        Raises:
            ModelError: if the model gives NaN or infinite vectors.
        """
        vectors = np.empty((len(texts), self.dimension), np.float32)
        if not len(texts):
            return vectors
        places: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(text, []).append(place)
        distinct = list(places)
        store = VectorCache(cache, fingerprint=self.fingerprint, role=role) if cache else None
        missing = distinct
        if store is not None:
            held, found = store.lookup(distinct)
            if found is not None:
                known = [text for text, is_held in zip(distinct, held, strict=True) if is_held]
                _scatter(vectors, places, known, found, progress)
                missing = [text for text, is_held in zip(distinct, held, strict=True) if not is_held]
        # Long texts first: chunks are of like length, and a batch that does not fit shows at once.
        missing = sorted(missing, key=len, reverse=True)
        for start in range(0, len(missing), self.CHUNK):
            chunk = missing[start : start + self.CHUNK]
            encoded = self._forward(chunk, role)
            if store is not None:
                store.add(chunk, encoded)
            _scatter(vectors, places, chunk, encoded, progress)
        return vectors

    def _forward(self, texts: list[str], role: Role) -> NDArray[np.float32]:
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        with self._lock, self._autocast():
            vectors = encode(
                texts,
                batch_size=self.settings.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
                truncate_dim=self.settings.truncate_dim,
            )
        result = np.asarray(vectors, dtype=np.float32)
        if not np.isfinite(result).all():
            raise ModelError(f"The model {self.name!r} gives NaN or infinite vectors; its weights are broken.")
        return result

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        import torch

        enabled = self.settings.precision == "bfloat16"
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=enabled):
            yield


def apply_prompts(model: SentenceTransformer, prompts: Prompts) -> None:
    """Make the prompts the model's own, under the names that `encode_query` and `encode_document` use."""
    kept = {name: text for name, text in model.prompts.items() if name not in {"query", "document"}}
    model.prompts = {**kept, "query": prompts.query, "document": prompts.document}


def _load_model(folder: Path, settings: EncoderSettings) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(
            str(folder),
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"The model in {str(folder)!r} cannot be loaded ({first}); copy or train the model again."
        ) from error
    if settings.max_seq_length is not None:
        model.max_seq_length = min(settings.max_seq_length, model.max_seq_length or settings.max_seq_length)
    model.eval()
    return model


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
