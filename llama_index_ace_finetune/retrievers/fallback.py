"""Fallback chain: the tuned model, else the baseline, each behind a circuit breaker."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]
from llama_index.core.schema import QueryBundle
from numpy.typing import NDArray

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, StoreError
from llama_index_ace_finetune.retrievers.circuit_breaker import CircuitBreaker
from llama_index_ace_finetune.retrievers.deadline import Deadline
from llama_index_ace_finetune.retrievers.retrieved_memory import ServedBy
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore
from llama_index_ace_finetune.utils.fork import fork_safe_lock


class FallbackEvent(BaseEvent):
    """A model could not be used, and the next one in the fallback chain was tried; or a leg was skipped.

    failed: the model's vectors, "finetuned" or "baseline"; or the leg, "late" or "base"; or "windows" of long texts.
    reason: "missing", "mismatch", "error", "timeout", or "paused" during its cool-down after failures.
    detail: the error's message.
    """

    failed: str
    reason: str
    detail: str

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises the class."""
        return "FallbackEvent"


logger = logging.getLogger(__name__)
dispatcher = get_dispatcher(__name__)

Fallback = Literal["baseline", "off"]
VectorName = Literal["finetuned", "baseline"]
Serve = Literal["finetuned", "base"]
# Fraction of the remaining seconds that a model may take if there is a fallback.
_TIME_FRACTION = 0.5


def require_serve(serve: object) -> None:
    """Raise AceFinetuneError unless it is one of `Serve`."""
    if serve not in ("finetuned", "base"):
        raise AceFinetuneError(f"The model to serve is {serve!r:.80}; it must be finetuned or base.")


@dataclass(frozen=True, kw_only=True)
class FallbackSettings:
    """When to fall back to the next model.

    fallback: "baseline" falls back to the baseline and then to BM25 only; "off" raises the error.
    timeout: seconds for a query, embedding and store together; none by default. With a fallback, a model may take half
        of the remaining time, so that some is left for the next one and for the store.
    failures: number of failures in a row after which a model is skipped.
    cooldown: seconds for which it is skipped, before one query tries it again.
    """

    fallback: Fallback = "baseline"
    timeout: float | None = None
    failures: int = 3
    cooldown: float = 30.0

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for an invalid value."""
        if self.fallback not in ("baseline", "off"):
            raise AceFinetuneError(f"The fallback is {self.fallback!r}; it must be baseline or off.")
        if self.timeout is not None and not self.timeout > 0:
            raise AceFinetuneError(f"The timeout is {self.timeout}; give seconds above 0, or None for no limit.")
        if self.failures < 1 or not self.cooldown >= 0:
            raise AceFinetuneError(
                f"The circuit breaker would skip a model after {self.failures} failures for {self.cooldown} seconds; "
                "give breaker_failures of 1 or more, and breaker_pause of 0 or more."
            )


@dataclass
class _Link:
    name: VectorName
    served: ServedBy
    model: BaseEmbedding | None
    breaker: CircuitBreaker
    unavailable: tuple[str, str] = field(default=("missing", "it is not available"))


class Embedded(NamedTuple):
    """Query vectors, float32 [n, dimension], to search the named vector `name`; `served` goes into the results.

    tokens: the token vectors of each query, float32 [tokens, d]; None if they were not requested or cannot be computed.
    """

    name: VectorName
    served: ServedBy
    vectors: NDArray[np.float32]
    tokens: list[NDArray[np.float32]] | None = None


EncodeTokens = Callable[
    [BaseEmbedding, Sequence[QueryBundle]], "tuple[NDArray[np.float32], list[NDArray[np.float32]]] | None"
]
"""Returns the vectors and the token vectors of queries by one forward pass; None if the model has no token vectors."""


class FallbackChain:
    """The models of a store's vectors, tried in order.

    `fallbacks` counts the failures by (name, reason); each is also logged and sent as a `FallbackEvent`.
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        embed_model: BaseEmbedding | None,
        baseline_model: BaseEmbedding | None,
        settings: FallbackSettings,
        serve: Serve = "finetuned",
    ) -> None:
        self.settings = settings
        self.fallbacks: Counter[tuple[str, str]] = Counter()
        self._store = store
        self._lock = fork_safe_lock()
        require_serve(serve)
        if serve == "base":
            self._links = [self._link(BASELINE, "base", baseline_model, required=True)]
        else:
            own: ServedBy = "finetuned" if getattr(embed_model, "is_tuned", True) else "base"
            self._links = [
                self._link(FINETUNED, own, embed_model, required=True),
                self._link(BASELINE, "baseline", baseline_model),
            ]
        if settings.fallback == "off":
            del self._links[1:]
            if self._links[0].model is None:
                which = "base" if serve == "base" else "tuned"
                raise ModelError(f"The {which} model is not available and the fallback is off; give its folder.")

    @property
    def models(self) -> list[BaseEmbedding | None]:
        """The models in the order they are tried; None for one that is not available."""
        return [link.model for link in self._links]

    @property
    def intended(self) -> ServedBy:
        """What serves if the first model is available."""
        return self._links[0].served

    @property
    def primary(self) -> ServedBy:
        """What serves as long as no available model fails."""
        return next((link.served for link in self._links if link.model is not None), "baseline")

    def fingerprint(self, served: str | None) -> str | None:
        """Fingerprint of the vectors that are searched if `served` serves; None if BM25 does."""
        name = next((link.name for link in self._links if link.served == served), None)
        return self._store.named_vectors[name].fingerprint if name in self._store.named_vectors else None

    def embed(
        self,
        bundles: Sequence[QueryBundle],
        deadline: Deadline | None = None,
        *,
        encode_tokens: EncodeTokens | None = None,
    ) -> Embedded | None:
        """Return the query vectors of the first model that works; None if none does.

        With `encode_tokens`, the model's token vectors are returned too.

        Raises:
            ModelError, StoreError: if the model fails and the fallback is "off".
        """
        deadline = deadline or Deadline(self.settings.timeout)
        for link in self._links:
            found = self._try(link, bundles, deadline, encode_tokens)
            if found is not None:
                return Embedded(link.name, link.served, *found)
        return None

    def embed_baseline(self, bundles: Sequence[QueryBundle], deadline: Deadline) -> NDArray[np.float32] | None:
        """Return the query vectors of the baseline; None, and a fallback is reported, if it cannot be used."""
        for link in self._links:
            if link.name == BASELINE:
                found = self._try(link, bundles, deadline, None)
                return None if found is None else found[0]
        self.report(BASELINE, "missing", "the fallback is off, so the baseline is not loaded", quiet=True)
        return None

    def _try(
        self, link: _Link, bundles: Sequence[QueryBundle], deadline: Deadline, encode_tokens: EncodeTokens | None
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]] | None] | None:
        model = link.model
        if model is None:
            self.report(link.name, *link.unavailable, quiet=True)
            return None
        off = self.settings.fallback == "off"
        if not off and not link.breaker.allows():
            self.report(link.name, "paused", "it is skipped for a cool-down after failures", quiet=True)
            return None
        try:
            fraction = 1.0 if off else _TIME_FRACTION
            vectors, tokens = deadline.call(lambda: _embed(model, bundles, encode_tokens), fraction=fraction)
            self._require_fitting(link.name, vectors)
        except Exception as error:
            timed_out = isinstance(error, (TimeoutError, FutureTimeoutError))
            link.breaker.failed()
            if off:
                if timed_out:
                    raise ModelError(f"The model {model.model_name!r} did not answer: {error}; try again.") from error
                raise
            reason = "timeout" if timed_out else "mismatch" if isinstance(error, StoreError) else "error"
            self.report(link.name, reason, str(error) or type(error).__name__)
            return None
        link.breaker.succeeded()
        return vectors, tokens

    def _link(
        self, name: VectorName, served: ServedBy, model: BaseEmbedding | None, *, required: bool = False
    ) -> _Link:
        breaker = CircuitBreaker(failures=self.settings.failures, cooldown=self.settings.cooldown)
        link = _Link(name, served, model, breaker)
        named_vector = self._store.named_vectors.get(name)
        made_with = getattr(model, "document_fingerprint", getattr(model, "fingerprint", None))
        if model is None or (named_vector is not None and made_with in (None, named_vector.fingerprint)):
            return link
        message = (
            f"The model {model.model_name!r} is not the one that made the {name} vectors in {self._store.location}; "
            "build the index again with `ace-finetune index`, or give the model that made them."
        )
        if required and self.settings.fallback == "off":
            raise StoreError(message)
        logger.warning("%s", message)
        return _Link(name, served, None, breaker, ("mismatch", message))

    def _require_fitting(self, name: VectorName, vectors: NDArray[np.float32]) -> None:
        self._store.require_dimension(name, vectors.shape[1])
        if not np.isfinite(vectors).all():
            raise ModelError(f"The {name} model returns NaN or infinite vectors; its weights are broken.")

    def report(self, failed: str, reason: str, detail: str, *, quiet: bool = False) -> None:
        """Count, log (at a low level if `quiet`) and send the failure of a model or a leg."""
        with self._lock:
            self.fallbacks[failed, reason] += 1
        # A missing model was logged at construction, and a cool-down with the failure that started it.
        logger.log(logging.DEBUG if quiet else logging.WARNING, "the %s leg failed and is skipped: %s", failed, detail)
        dispatcher.event(FallbackEvent(failed=failed, reason=reason, detail=detail))


def _embed(
    model: BaseEmbedding, bundles: Sequence[QueryBundle], encode_tokens: EncodeTokens | None
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]] | None]:
    both = encode_tokens(model, bundles) if encode_tokens is not None else None
    return both if both is not None else (np.asarray(_vectors(model, bundles), np.float32), None)


def _vectors(model: BaseEmbedding, bundles: Sequence[QueryBundle]) -> object:
    # A vector in the caller's bundle is ignored: which model made it is unknown.
    texts = [bundle.embedding_strs for bundle in bundles]
    if isinstance(model, FineTunedEmbedding) and len(bundles) > 1 and all(len(strings) == 1 for strings in texts):
        return model.get_query_embeddings([strings[0] for strings in texts])
    return [model.get_agg_embedding_from_queries(strings) for strings in texts]
