"""Which model embeds a query: the tuned one, else the baseline, each left alone for a while when it is dead."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
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
    """A step down the ladder.

    failed: whose vectors could not be searched, "finetuned" or "baseline".
    reason: "missing", "mismatch", "error", "timeout", or "paused" while it is left alone after failures.
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
Step = Literal["finetuned", "baseline"]
Serve = Literal["finetuned", "base"]
# Of the seconds that are left, what a model may take where others can stand in for it.
_SHARE = 0.5


def require_serve(serve: object) -> None:
    """Raise AceFinetuneError unless it is one of `Serve`."""
    if serve not in ("finetuned", "base"):
        raise AceFinetuneError(f"The model to serve is {serve!r:.80}; it must be finetuned or base.")


@dataclass(frozen=True, kw_only=True)
class FallbackSettings:
    """When the next step of the ladder is taken.

    fallback: "baseline" continues with the baseline and then with BM25 only; "off" raises what went wrong.
    timeout: seconds for a query, embedding and store together; none by default. With a fallback, a model may take half
        of what is left, so that time remains for the next one and for the store.
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
    served: ServedBy
    model: BaseEmbedding | None
    breaker: CircuitBreaker
    absent: tuple[str, str] = field(default=("missing", "it is not available"))


class Embedded(NamedTuple):
    """Query vectors, float32 [n, dimension], for the store's vectors `name`; results say that `served` answered."""

    name: Step
    served: ServedBy
    vectors: NDArray[np.float32]


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
        serve: Serve = "finetuned",
    ) -> None:
        self.settings = settings
        self.fallbacks: Counter[tuple[str, str]] = Counter()
        self._store = store
        self._counting = fork_safe_lock()
        require_serve(serve)
        if serve == "base":
            self._rungs = [self._rung(BASELINE, "base", baseline_model, required=True)]
        else:
            own: ServedBy = "finetuned" if getattr(embed_model, "is_tuned", True) else "base"
            self._rungs = [
                self._rung(FINETUNED, own, embed_model, required=True),
                self._rung(BASELINE, "baseline", baseline_model),
            ]
        if settings.fallback == "off":
            del self._rungs[1:]
            if self._rungs[0].model is None:
                which = "base" if serve == "base" else "tuned"
                raise ModelError(f"The {which} model is not available and the fallback is off; give its folder.")

    @property
    def chosen(self) -> ServedBy:
        """What ought to serve."""
        return self._rungs[0].served

    @property
    def first(self) -> ServedBy:
        """What serves if nothing fails."""
        return next((rung.served for rung in self._rungs if rung.model is not None), "baseline")

    def embed(self, bundles: Sequence[QueryBundle], deadline: Deadline | None = None) -> Embedded | None:
        """Return the query vectors, and whose vectors to search; None where no model can.

        Raises:
            ModelError, StoreError: what went wrong, with fallback "off".
        """
        deadline = deadline or Deadline(self.settings.timeout)
        for rung in self._rungs:
            vectors = self._try(rung, bundles, deadline)
            if vectors is not None:
                return Embedded(rung.name, rung.served, vectors)
        return None

    def _try(self, rung: _Rung, bundles: Sequence[QueryBundle], deadline: Deadline) -> NDArray[np.float32] | None:
        model = rung.model
        if model is None:
            self._tell(rung, *rung.absent, quiet=True)
            return None
        off = self.settings.fallback == "off"
        if not off and not rung.breaker.allows():
            self._tell(rung, "paused", "it is left alone after failures", quiet=True)
            return None
        try:
            embedded = deadline.call(lambda: _embed(model, bundles), share=1.0 if off else _SHARE)
            vectors = np.asarray(embedded, np.float32)
            self._require_fitting(rung.name, vectors)
        except Exception as error:
            timed_out = isinstance(error, (TimeoutError, FutureTimeoutError))
            rung.breaker.failed()
            if off:
                if timed_out:
                    raise ModelError(f"The model {model.model_name!r} did not answer: {error}; try again.") from error
                raise
            reason = "timeout" if timed_out else "mismatch" if isinstance(error, StoreError) else "error"
            self._tell(rung, reason, str(error) or type(error).__name__)
            return None
        rung.breaker.succeeded()
        return vectors

    def _rung(self, name: Step, served: ServedBy, model: BaseEmbedding | None, *, required: bool = False) -> _Rung:
        breaker = CircuitBreaker(failures=self.settings.failures, pause=self.settings.pause)
        rung = _Rung(name, served, model, breaker)
        space = self._store.spaces.get(name)
        made_with = getattr(model, "document_fingerprint", getattr(model, "fingerprint", None))
        if model is None or (space is not None and made_with in (None, space.fingerprint)):
            return rung
        message = (
            f"The model {model.model_name!r} is not the one that the {name} vectors in {self._store.where} "
            "were made with; build the index again with `ace-finetune index`, or give that model."
        )
        if required and self.settings.fallback == "off":
            raise StoreError(message)
        logger.warning("%s", message)
        return _Rung(name, served, None, breaker, ("mismatch", message))

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
