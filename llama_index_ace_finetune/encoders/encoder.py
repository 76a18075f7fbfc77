"""Encode texts as unit vectors; shared by mining, training, evaluation and serving."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.cache import VectorCache
from llama_index_ace_finetune.encoders.checkpoints import tensor_names
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.encoders.model_files import check_module_classes
from llama_index_ace_finetune.encoders.opening import opening
from llama_index_ace_finetune.encoders.prompts import Prompts
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.encoders.token_limit import takes_token_limit
from llama_index_ace_finetune.encoders.token_states import TokenStates
from llama_index_ace_finetune.errors import ModelError, first_line
from llama_index_ace_finetune.utils.fork import fork_safe_lock, renew_after_fork
from llama_index_ace_finetune.utils.memory import is_out_of_memory
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from tokenizers import Tokenizer
    from torch import Tensor

    from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder

logger = logging.getLogger(__name__)

Role = Literal["query", "document"]
Progress = Callable[[int], None]
_CHECKED_TEXTS = 8
_PLACE = re.compile(r"^\d+\.(sub_modules\.\w+\.\d+\.)*")
_MIN_COSINE = 0.995
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
        self._packed: dict[Role, PackedEncoder | None] = {}
        self._packed_version = -1
        self._checked: set[Role] = set()
        self._disagreeing: set[Role] = set()

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
            model = _load_model(identity.folder, settings)
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
            return TokenStates(
                np.empty((0, self.dimension), np.float32), np.empty((0, 0), np.float32), np.zeros(0, np.int64)
            )
        found = self._forward_tokens(texts, role)
        if not (np.isfinite(found.vectors).all() and np.isfinite(found.states).all()):
            raise ModelError(f"The model {self.name!r} returns NaN or infinite vectors; train or copy it again.")
        return found

    def _forward_tokens(self, texts: list[str], role: Role) -> TokenStates:
        with self._lock:
            packed = self._current_packed(texts, role)
            if packed:
                return packed.token_states(*self._tokens(texts, role))
            batches = self._equal_lengths(texts, role)
            return TokenStates.in_order(
                [(rows, self._model_states([texts[row] for row in rows], role)) for rows in batches]
            )

    def _open_cache(self, root: Path, texts: list[str], role: Role) -> VectorCache:
        """The vector cache of a role; that of the base if documents are embedded as by the base."""
        store = VectorCache(root, fingerprint=self.vector_key(role), role=role)
        if role == "query" or self.document_fingerprint == self.fingerprint:
            return store
        # This is what the model folder claims; verify it on a few cached vectors of the base.
        held, found = store.lookup(texts)
        sample = [text for text, is_held in zip(texts, held, strict=True) if is_held][:_CHECKED_TEXTS]
        if found is not None and (self._forward(sample, role) * found[: len(sample)]).sum(axis=1).min() > _SAME_COSINE:
            return store
        return VectorCache(root, fingerprint=f"{self.fingerprint}-{self.compute_backend}", role=role)

    def weights_changed(self) -> None:
        """Mark the model's weights as changed in place; call it after optimiser steps, before encoding.

        Loading a state dict is detected automatically; fused optimisers change weights without a trace.
        """
        self._packed_version = -1

    def packs(self, texts: Sequence[str], role: Role) -> bool:
        """Whether texts of a role use the fast forward pass, which was verified against the model on a few texts."""
        with self._lock:
            return (
                bool(len(texts))
                and self._current_packed([replace_lone_surrogates(text) for text in texts], role) is not None
            )

    def _forward(self, texts: list[str], role: Role, *, padded: bool = False) -> NDArray[np.float32]:
        with self._lock:
            packed = self._current_packed(texts, role)
            if packed:
                vectors = packed(*self._tokens(texts, role)).numpy()
            else:
                vectors = np.empty((len(texts), self.dimension), np.float32)
                for rows in [np.arange(len(texts))] if padded else self._equal_lengths(texts, role):
                    vectors[rows] = self._model_forward([texts[row] for row in rows], role)
        result = np.asarray(vectors, dtype=np.float32)
        if not np.isfinite(result).all():
            raise ModelError(f"The model {self.name!r} returns NaN or infinite vectors; train or copy it again.")
        return result

    def _equal_lengths(self, texts: list[str], role: Role) -> list[NDArray[np.intp]]:
        """Rows of `texts` grouped by number of tokens, on the CPU; else one group.

        Without padding, and with one thread, the vector of a text is bit-equal whatever else is in the batch; with more
        threads all but its last digits. Otherwise the contents of the cache would affect close decisions, such as which
        negatives are mined.
        """
        single = len(texts) == 1 or self.model.device.type != "cpu"
        mask = None if single else self._features(texts, role).get("attention_mask")
        if mask is None:
            return [np.arange(len(texts))]
        lengths = mask.sum(dim=1).numpy()
        return [np.flatnonzero(lengths == length) for length in np.unique(lengths)]

    def _model_forward(self, texts: list[str], role: Role) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._call_model(texts, role, normalize_embeddings=True, convert_to_numpy=True)
        return vectors

    def _model_states(self, texts: list[str], role: Role) -> TokenStates:
        import torch

        found: list[dict[str, Tensor]] = self._call_model(texts, role, output_value=None)
        if not {"token_embeddings", "attention_mask"} <= found[0].keys():
            raise ModelError(f"The model {self.name!r} has no token states; use it without late interaction.")
        vectors = torch.stack([text["sentence_embedding"] for text in found])
        states = [text["token_embeddings"][text["attention_mask"].bool()] for text in found]
        return TokenStates(
            torch.nn.functional.normalize(vectors, dim=1).float().cpu().numpy(),
            torch.cat(states).float().cpu().numpy(),
            np.array([len(text) for text in states], np.int64),
        )

    def _call_model(self, texts: list[str], role: Role, **output: object) -> Any:
        """Encode in the model's precision, with smaller batches if memory runs out."""
        import torch

        encode: Any = self.model.encode_query if role == "query" else self.model.encode_document
        enabled = self.settings.precision == "bfloat16"
        batch_size = self.settings.batch_size
        while True:
            try:
                with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=enabled):
                    return encode(
                        texts,
                        batch_size=batch_size,
                        show_progress_bar=False,
                        truncate_dim=self.settings.truncate_dim,
                        **output,
                    )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if batch_size == 1:
                    raise ModelError(
                        f"Out of memory: {self.model.device} cannot encode a single text with the model {self.name!r}; "
                        "lower max_seq_length, use a smaller model, or set device to cpu."
                    ) from error
            batch_size //= 2
            torch.cuda.empty_cache()
            logger.warning("out of memory; continuing with batches of %d texts", batch_size)

    def _features(self, texts: list[str], role: Role) -> dict[str, Any]:
        return self.model.preprocess(texts, prompt=self.model.prompts.get(role) or None, task=role)

    def _tokens(self, texts: list[str], role: Role) -> tuple[Tensor, Tensor]:
        features = self._features(texts, role)
        return features["input_ids"], features["attention_mask"]

    def _current_packed(self, texts: list[str], role: Role) -> PackedEncoder | None:
        """The fast forward pass with the current weights; None if that of the model must be used."""
        from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder

        settings = self.settings
        if settings.precision != "bfloat16" or settings.truncate_dim:
            return None
        # Torch counts in-place changes per tensor.
        version = sum(weight._version for weight in self.model.parameters())
        if version != self._packed_version:
            self._packed, self._packed_version = {}, version
        if role not in self._packed:
            known = PackedEncoder.supports(self.model, role=role) and role not in self._disagreeing
            packed = PackedEncoder(self.model, role=role) if known else None
            if packed and role not in self._checked:
                self._checked.add(role)
                sample = texts[:: max(1, len(texts) // _CHECKED_TEXTS)][:_CHECKED_TEXTS]
                cosines = (self._model_forward(sample, role) * packed(*self._tokens(sample, role)).numpy()).sum(axis=1)
                if cosines.min() <= _MIN_COSINE:
                    logger.warning(
                        "%s: the fast forward pass differs from that of the model and is not used", self.name
                    )
                    self._disagreeing.add(role)
                    packed = None
            self._packed[role] = packed
        return self._packed[role]


def apply_prompts(model: SentenceTransformer, prompts: Prompts) -> None:
    """Set the prompts of the model under the names that `encode_query` and `encode_document` use."""
    kept = {name: text for name, text in model.prompts.items() if name not in {"query", "document"}}
    model.prompts = {**kept, "query": prompts.query, "document": prompts.document}


def _load_model(folder: Path, settings: EncoderSettings) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    _check_device(settings.device)
    if not settings.trust_remote_code:
        check_module_classes(folder)
    try:
        model = SentenceTransformer(
            str(folder),
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:
        raise ModelError(
            f"The model in {str(folder)!r} cannot be loaded ({first_line(error)}); copy or train the model again."
        ) from error
    check_weights(model, folder)
    if any(weight.dtype in (torch.float16, torch.bfloat16) for weight in model.parameters()):
        # Files in 16 bits are loaded as such, and no training in them converges; `precision` is for computing only.
        model.float()
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None and getattr(tokenizer, "pad_token", "") is None:
        # Padding is masked, so any token works.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if settings.max_seq_length is not None and takes_token_limit(model):
        model.max_seq_length = min(settings.max_seq_length, model.max_seq_length or settings.max_seq_length)
    model.eval()
    return model


def _check_device(device: str | None) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"The device {device!r} is not available ({first_line(error)}); set device to cpu, or leave it out for "
            "the best one."
        ) from error


def check_weights(model: SentenceTransformer | SparseEncoder, folder: Path) -> None:
    """Refuse weights that lack the tensors of the model: these would keep random values."""
    names = tensor_names(folder)
    # model2vec's name of the only tensor of a static embedding.
    names |= {"embedding.weight"} if "embeddings" in names else set()
    held = {ending for name in names for ending in _endings(name)}
    needed = [name for name, _ in model.named_parameters()]
    # Tensor names in files lack the module number and the route of a router.
    missing = [name for name in needed if held.isdisjoint(_endings(_PLACE.sub("", name)))]
    # A few may be tied, renamed or unused; in the file of another model nearly all are missing.
    if 2 * len(missing) > len(needed):
        raise ModelError(
            f"The weights in {str(folder)!r} do not match its config ({len(missing)} of {len(needed)} tensors are "
            f"missing, such as {missing[0]!r}); copy or train the model again."
        )


def _endings(name: str) -> list[str]:
    """A tensor's name and its suffixes of three or more parts: files name it with or without prefixes."""
    parts = name.split(".")
    return [name, *(".".join(parts[start:]) for start in range(1, len(parts) - 2))]


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
