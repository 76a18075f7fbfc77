"""ModelLegs: the legs of a hybrid search that need a model (dense, base, late interaction)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import QueryBundle
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.retrievers.circuit_breaker import CircuitBreaker
from llama_index_ace_finetune.retrievers.deadline import Deadline
from llama_index_ace_finetune.retrievers.fallback import Embedded, FallbackChain
from llama_index_ace_finetune.retrievers.legs.known_query_search import KnownQuerySearch
from llama_index_ace_finetune.retrievers.legs.leg_hit import LegHit, ranked
from llama_index_ace_finetune.retrievers.legs.server_token_leg import ServerTokenLeg
from llama_index_ace_finetune.retrievers.legs.token_leg import TokenLeg
from llama_index_ace_finetune.retrievers.legs.window_search import WindowSearch
from llama_index_ace_finetune.retrievers.retrieved_memory import ServedBy
from llama_index_ace_finetune.retrievers.search_settings import LEXICAL, UNEMBEDDED_LEGS, LegWeights, SearchSettings
from llama_index_ace_finetune.retrievers.search_threads import SearchThreads
from llama_index_ace_finetune.stores.memory_store import BASELINE, MemoryStore

Hits = dict[Leg, list[list[LegHit]]]
"""Hits of each leg, for each query."""
_Result = TypeVar("_Result")
# Fraction of the remaining seconds that late interaction, or encoding windows of new memories, may take.
_LATE_FRACTION: Final = 0.5
_LOWEST_COSINE: Final = -1.0


@dataclass
class ModelHits:
    """What the legs with a model found for some queries.

    Attributes:
        served_by: the model.
        hits: of "dense" and "base".
        vectors: of each of these legs, the name of the stored vectors, and the query vectors by position.
        tokens: token vectors of the queries, by position.
        skipped: legs that could not be used.
        deadline: of the queries.
    """

    served_by: ServedBy
    hits: Hits = field(default_factory=dict)
    vectors: dict[Leg, tuple[str, dict[int, NDArray[np.float32]]]] = field(default_factory=dict)
    tokens: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    deadline: Deadline | None = None


class ModelLegs:
    """Embeds queries by the fallback chain, and finds and scores memories by their vectors and token vectors.

    A leg other than the dense one that fails is skipped: it is reported, and the other legs keep their weights.
    """

    def __init__(
        self,
        store: MemoryStore,
        chain: FallbackChain,
        late: TokenLeg | ServerTokenLeg | None,
        threads: SearchThreads,
        known: KnownQuerySearch | None = None,
        windows: WindowSearch | None = None,
    ) -> None:
        self._store, self._chain, self._late, self._threads, self._known = store, chain, late, threads, known
        self._windows = windows
        self._breaker, self._window_breaker = (
            CircuitBreaker(failures=chain.settings.failures, cooldown=chain.settings.cooldown) for _ in range(2)
        )

    def embed(self, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline) -> Embedded | None:
        """Return the query vectors, and the token vectors if late interaction needs them; None if no model works."""
        # A query that waited for other queries says nothing about the model.
        if deadline.is_nearly_over:
            raise self._threads.timeout_error(deadline)
        wanted = "late" in settings.legs(self._chain.intended).weights
        return self._chain.embed(bundles, deadline, encode_tokens=self._encode_tokens if wanted else None)

    def search(
        self,
        bundles: Sequence[QueryBundle],
        settings: SearchSettings,
        deadline: Deadline | None,
        *,
        embedded: Embedded | None = None,
    ) -> ModelHits:
        """Return the hits of the legs with a model; `embedded` if the queries are embedded already."""
        if settings.mode == "sparse" or not needs_model(settings.legs(self._chain.intended)):
            return ModelHits(LEXICAL)
        deadline = deadline or self._threads.deadline()
        places = [place for place, bundle in enumerate(bundles) if bundle.query_str.strip()]
        if not places:
            return ModelHits(self._chain.primary)
        queries = [bundles[place] for place in places]
        embedded = embedded or self.embed(queries, settings, deadline)
        if embedded is None:
            if settings.mode == "dense":
                raise ModelError("Neither the tuned model nor the baseline can serve; see the log for the reasons.")
            return ModelHits(LEXICAL)
        found = self._query_vectors(embedded, queries, places, settings, deadline)
        self.prepare_windows(found, settings)
        depth = settings.depth(settings.dense_top_k)
        for leg, (name, vectors) in found.vectors.items():
            rows = np.stack(list(vectors.values()))
            search = partial(self._search_batch, leg, name, rows, depth, settings, found)
            found.hits[leg] = [[] for _ in bundles]
            for place, nearest in zip(places, self._threads.call(deadline, search), strict=True):
                found.hits[leg][place] = over_threshold(nearest, settings) if leg == "dense" else ranked(nearest)
        return found

    def uses_known_queries(self, leg: Leg, settings: SearchSettings, served_by: ServedBy) -> bool:
        """Whether known queries are part of a leg: of the dense one, while the model that they are by serves."""
        wanted = leg == "dense" and settings.known_query_offset is not None
        return wanted and self._known is not None and served_by == self._chain.intended

    def prepare_windows(self, found: ModelHits, settings: SearchSettings) -> None:
        """Encode the windows of new memories if windows are used; they are skipped, and reported, if that fails."""
        if not settings.windows or "dense" not in found.vectors:
            return
        if self._windows is None or found.served_by != self._chain.intended:
            why = "there are no windows of the memories" if self._windows is None else f"{found.served_by} serves"
            self._chain.report("windows", "missing", why, quiet=True)
            found.skipped.append("windows")
        elif not self._window_breaker.allows():
            self._chain.report("windows", "paused", "they are skipped for a cool-down after failures", quiet=True)
            found.skipped.append("windows")
        else:
            deadline = found.deadline or self._threads.deadline()
            sync = self._windows.sync
            self._try_windows(found, lambda: deadline.call(sync, fraction=_LATE_FRACTION))

    def merge_further_vectors(
        self,
        nearest: Sequence[tuple[str, float]],
        vector: NDArray[np.float32],
        settings: SearchSettings,
        found: ModelHits,
    ) -> Sequence[tuple[str, float]]:
        """Return the nearest memories of the dense leg, or those with their windows and known queries if used."""
        depth, query_filter = settings.depth(settings.dense_top_k), settings.query_filter()
        windows = self._used_windows("dense", settings, found)
        if windows is not None:
            merge = partial(windows.merge, nearest, vector, depth, query_filter=query_filter)
            nearest = self._try_windows(found, merge) or nearest
        if self._known is None or not self.uses_known_queries("dense", settings, found.served_by):
            return nearest
        offset = settings.known_query_offset or 0.0
        return self._known.merge(nearest, vector, depth, offset=offset, query_filter=query_filter)

    def _used_windows(self, leg: Leg, settings: SearchSettings, found: ModelHits) -> WindowSearch | None:
        used = leg == "dense" and settings.windows and "windows" not in found.skipped
        return self._windows if used else None

    def _try_windows(self, found: ModelHits, function: Callable[[], _Result]) -> _Result | None:
        """Return what a function returns; None, and windows are skipped from then on, if it fails."""
        try:
            result = function()
        except Exception as error:  # of any library, or of the file system
            self._window_breaker.failed()
            reason = "timeout" if isinstance(error, TimeoutError) else "error"
            self._chain.report("windows", reason, str(error) or type(error).__name__)
            found.skipped.append("windows")
            return None
        self._window_breaker.succeeded()
        return result

    def _search_batch(
        self,
        leg: Leg,
        name: str,
        vectors: NDArray[np.float32],
        depth: int,
        settings: SearchSettings,
        found: ModelHits,
    ) -> list[Sequence[tuple[str, float]]]:
        hits = self._store.search_batch(name, vectors, depth, query_filter=settings.query_filter())
        if leg != "dense":
            return [*hits]
        return [
            self.merge_further_vectors(nearest, vector, settings, found)
            for nearest, vector in zip(hits, vectors, strict=True)
        ]

    def cosines(
        self, leg: Leg, place: int, found: ModelHits, ids: Sequence[str], settings: SearchSettings
    ) -> NDArray[np.float64]:
        """Return the cosine of the query at a place with some memories, float64 [n], -1 for one without a vector.

        In the dense leg, it is that with the nearest window of its text, or with the nearest known query less the
        offset, if that is higher.
        """
        name, vectors = found.vectors[leg]
        search = partial(self._store.cosines, name, vectors[place][None], [ids])
        (hits,) = self._threads.call(found.deadline, search)
        known = dict(hits)
        cosines = np.array([known.get(node_id, _LOWEST_COSINE) for node_id in ids])
        windows = self._used_windows(leg, settings, found)
        if windows is not None:
            best = partial(windows.scores, vectors[place], ids, cosines)
            merged = self._try_windows(found, lambda: self._threads.call(found.deadline, best))
            cosines = cosines if merged is None else merged
        if self._known is None or not self.uses_known_queries(leg, settings, found.served_by):
            return cosines
        offset = settings.known_query_offset or 0.0
        scores = partial(self._known.scores, vectors[place], ids, cosines, offset=offset)
        return self._threads.call(found.deadline, scores)

    def late_scores(self, place: int, found: ModelHits, ids: Sequence[str]) -> NDArray[np.float64] | None:
        """Return the MaxSim of the query at a place with some memories, float64 [n]; None if the leg is skipped."""
        late, deadline = self._late, found.deadline or self._threads.deadline()
        if late is None:
            self._chain.report("late", "missing", "there are no token vectors of the memories", quiet=True)
            return None
        if place not in found.tokens:  # reported, unless another model serves
            if found.served_by != self._chain.intended:
                self._chain.report("late", "missing", f"there are no token vectors of the {found.served_by} model")
            return None
        try:
            scores = deadline.call(lambda: late.scores(found.tokens[place], ids), fraction=_LATE_FRACTION)
        except Exception as error:  # of any library, or of the file system
            self._late_failed(error)
            return None
        self._breaker.succeeded()
        return scores

    def _query_vectors(
        self,
        embedded: Embedded,
        bundles: Sequence[QueryBundle],
        places: Sequence[int],
        settings: SearchSettings,
        deadline: Deadline,
    ) -> ModelHits:
        legs = settings.legs(embedded.served).weights
        found = ModelHits(embedded.served, deadline=deadline)
        if "dense" in legs:
            found.vectors["dense"] = embedded.name, dict(zip(places, embedded.vectors, strict=True))
        if "base" in legs:
            vectors = self._chain.embed_baseline(bundles, deadline)
            if vectors is None:
                found.skipped.append("base")
            else:
                found.vectors["base"] = BASELINE, dict(zip(places, vectors, strict=True))
        if embedded.tokens is not None:
            found.tokens = dict(zip(places, embedded.tokens, strict=True))
        return found

    def _encode_tokens(
        self, model: BaseEmbedding, bundles: Sequence[QueryBundle]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]] | None:
        if self._late is None:
            return None
        if not self._breaker.allows():
            self._chain.report("late", "paused", "it is skipped for a cool-down after failures", quiet=True)
            return None
        try:
            found = self._late.encode(model, bundles)
        except Exception as error:  # of any library; vectors without tokens may still work
            self._late_failed(error)
            return None
        if found is None:
            self._chain.report("late", "mismatch", "the token vectors are of another model", quiet=True)
        return found

    def _late_failed(self, error: Exception) -> None:
        self._breaker.failed()
        reason = "timeout" if isinstance(error, TimeoutError) else "error"
        self._chain.report("late", reason, str(error) or type(error).__name__)


def needs_model(legs: LegWeights, *, weighted: bool = False) -> bool:
    """Whether a leg needs an embedding model; with `weighted`, one with a weight above 0."""
    return any(leg not in UNEMBEDDED_LEGS and (weight > 0 or not weighted) for leg, weight in legs.weights.items())


def over_threshold(hits: Sequence[tuple[str, float]], settings: SearchSettings) -> list[LegHit]:
    """Return the dense hits with the lowest cosine that is wanted, or a higher one."""
    floor = settings.threshold if settings.threshold is not None else float("-inf")
    return ranked([hit for hit in hits if hit[1] >= floor])
