"""Which model embeds a query: the tuned one, else the baseline, each left alone for a while when it is dead."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.schema import QueryBundle
from numpy.typing import NDArray

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, StoreError
from llama_index_ace_finetune.retrievers.circuit_breaker import CircuitBreaker
from llama_index_ace_finetune.retrievers.fallback_event import FallbackEvent
from llama_index_ace_finetune.retrievers.within import within
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore
from llama_index_ace_finetune.utils.fork import fork_safe_lock

logger = logging.getLogger(__name__)
dispatcher = get_dispatcher(__name__)

Fallback = Literal["baseline", "off"]
Step = Literal["finetuned", "baseline"]


@dataclass(frozen=True, kw_only=True)
class FallbackSettings:
    """When the next step of the ladder is taken.

    fallback: "baseline" goes on with the baseline and then with BM25 alone; "off" raises what went wrong.
    timeout: seconds for embedding a query; none by default.
    failures: in a row after which a model is left alone.
    pause: seconds for which it is left alone, before one query tries it again.
    """

    fallback: Fallback = "baseline"
    timeout: float | None = None
    failures: int = 3
    pause: float = 30.0

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for a value that makes no sense."""
        if self.fallback not in ("baseline", "off"):
            raise AceFinetuneError(f"The fallback is {self.fallback!r}; it must be baseline or off.")
        if self.timeout is not None and not self.timeout > 0:
            raise AceFinetuneError(f"The timeout is {self.timeout}; give seconds above 0, or None for no limit.")
        if self.failures < 1 or not self.pause >= 0:
            raise AceFinetuneError(
                f"A model is left alone after {self.failures} failures for {self.pause} seconds; give 1 or more, "
                "and 0 or more."
            )


@dataclass
class _Rung:
    name: Step
    model: BaseEmbedding | None
    breaker: CircuitBreaker
    absent: tuple[str, str] = field(default=("missing", "it is not available"))


class ModelLadder:
    """The models over a store's vectors, tried in order.

    `fallbacks` counts the steps down as (name, reason); each is logged and sent as a `FallbackEvent`, too.
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        embed_model: BaseEmbedding | None,
        baseline_model: BaseEmbedding | None,
        settings: FallbackSettings,
    ) -> None:
        self.settings = settings
        self.fallbacks: Counter[tuple[str, str]] = Counter()
        self._store = store
        self._counting = fork_safe_lock()
        given: tuple[tuple[Step, BaseEmbedding | None], ...] = ((FINETUNED, embed_model), (BASELINE, baseline_model))
        self._rungs = [self._rung(name, model) for name, model in given]
        if settings.fallback == "off":
            del self._rungs[1:]
            if self._rungs[0].model is None:
                raise ModelError("The tuned model is not available and the fallback is off; give its folder.")

    @property
    def first(self) -> Step:
        """Whose vectors are searched if nothing fails."""
        return next((rung.name for rung in self._rungs if rung.model is not None), BASELINE)

    def embed(self, bundles: Sequence[QueryBundle]) -> tuple[Step, NDArray[np.float32]] | None:
        """Return whose vectors to search and the query vectors, float32 [n, dimension]; None where no model can.

        Raises:
            ModelError, StoreError: what went wrong, with fallback "off".
        """
        for rung in self._rungs:
            vectors = self._try(rung, bundles)
            if vectors is not None:
                return rung.name, vectors
        return None

    def _try(self, rung: _Rung, bundles: Sequence[QueryBundle]) -> NDArray[np.float32] | None:
        model = rung.model
        if model is None:
            self._tell(rung, *rung.absent, quiet=True)
            return None
        off = self.settings.fallback == "off"
        if not off and not rung.breaker.allows():
            self._tell(rung, "paused", "it is left alone after failures", quiet=True)
            return None
        try:
            vectors = np.asarray(within(self.settings.timeout, lambda: _embed(model, bundles)), np.float32)
            self._require_fitting(rung.name, vectors)
        except Exception as error:
            rung.breaker.failed()
            timed_out = isinstance(error, (TimeoutError, FutureTimeoutError))
            if off:
                if timed_out:
                    raise ModelError(f"The model {model.model_name!r} did not answer: {error}; try again.") from error
                raise
            reason = "timeout" if timed_out else "mismatch" if isinstance(error, StoreError) else "error"
            self._tell(rung, reason, str(error) or type(error).__name__)
            return None
        rung.breaker.succeeded()
        return vectors

    def _rung(self, name: Step, model: BaseEmbedding | None) -> _Rung:
        breaker = CircuitBreaker(failures=self.settings.failures, pause=self.settings.pause)
        rung = _Rung(name, model, breaker)
        space = self._store.spaces.get(name)
        made_with = getattr(model, "document_fingerprint", getattr(model, "fingerprint", None))
        if model is None or (space is not None and made_with in (None, space.fingerprint)):
            return rung
        message = (
            f"The model {model.model_name!r} is not the one that the {name} vectors in {self._store.where} "
            "were made with; build the index again with `ace-finetune index`, or give that model."
        )
        if name == FINETUNED and self.settings.fallback == "off":
            raise StoreError(message)
        logger.warning("%s", message)
        return _Rung(name, None, breaker, ("mismatch", message))

    def _require_fitting(self, name: Step, vectors: NDArray[np.float32]) -> None:
        dimension = self._store.spaces[name].dimension
        if vectors.shape[1] != dimension:
            raise StoreError(
                f"The query vector has {vectors.shape[1]} dimensions and {name!r} in {self._store.where} has "
                f"{dimension}; use the model that the index was built with."
            )
        if not np.isfinite(vectors).all():
            raise ModelError(f"The {name} model gives NaN or infinite vectors; its weights are broken.")

    def _tell(self, rung: _Rung, reason: str, detail: str, *, quiet: bool = False) -> None:
        with self._counting:
            self.fallbacks[rung.name, reason] += 1
        # What is absent was logged when it was found to be, and a pause when the last failure was.
        logger.log(
            logging.DEBUG if quiet else logging.WARNING, "the %s leg failed and is skipped: %s", rung.name, detail
        )
        dispatcher.event(FallbackEvent(failed=rung.name, reason=reason, detail=detail))


def _embed(model: BaseEmbedding, bundles: Sequence[QueryBundle]) -> object:
    # Embedded here per model: a vector in the caller's bundle would be of an unknown space.
    texts = [bundle.embedding_strs for bundle in bundles]
    if isinstance(model, FineTunedEmbedding) and len(bundles) > 1 and all(len(strings) == 1 for strings in texts):
        return model.get_query_embeddings([strings[0] for strings in texts])
    return [model.get_agg_embedding_from_queries(strings) for strings in texts]
