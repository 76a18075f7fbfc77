"""SparseSearch: the leg of a learned sparse encoder, which is skipped where it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import numpy as np
from llama_index.core.schema import QueryBundle
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.retrievers.circuit_breaker import CircuitBreaker
from llama_index_ace_finetune.retrievers.deadline import Deadline
from llama_index_ace_finetune.retrievers.fallback import FallbackChain
from llama_index_ace_finetune.retrievers.legs.leg_hit import LegHit, ranked
from llama_index_ace_finetune.retrievers.legs.sparse_leg import SparseLeg
from llama_index_ace_finetune.retrievers.search_settings import SearchSettings
from llama_index_ace_finetune.retrievers.search_threads import SearchThreads
from llama_index_ace_finetune.stores.memory_store import MemoryStore

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")
# Fraction of the remaining seconds that the leg may take.
_FRACTION: Final = 0.5


class SparseSearch:
    """Finds and scores memories by their sparse vectors; a failure is reported, and the other legs keep their weights.

    Args:
        store: of the memories.
        vectors: of the memories; None if there are none.
        chain: takes the reports.
        threads: of the searches.
    """

    def __init__(
        self, store: MemoryStore, vectors: StoredSparseVectors | None, chain: FallbackChain, threads: SearchThreads
    ) -> None:
        self._chain, self._threads = chain, threads
        self._vectors = vectors
        self._leg = None if vectors is None else SparseLeg(store, vectors)
        self._breaker = CircuitBreaker(failures=chain.settings.failures, cooldown=chain.settings.cooldown)

    def search(
        self, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline | None
    ) -> list[list[LegHit]] | None:
        """Return the hits of each query; None if the leg is skipped."""
        depth, query_filter = settings.depth(settings.sparse_top_k), settings.query_filter()
        return self._call(
            deadline,
            lambda leg: [
                ranked(leg.search(bundle.query_str, depth, query_filter=query_filter))
                if bundle.query_str.strip()
                else []
                for bundle in bundles
            ],
        )

    def scores(self, query: str, ids: Sequence[str], deadline: Deadline | None) -> NDArray[np.float64] | None:
        """Return the scores of some memories, float64 [n], 0 for one that does not match; None if it is skipped."""
        return self._call(deadline, lambda leg: leg.scores(query, ids))

    def refresh(self) -> None:
        """Rebuild the index from the store before the next search."""
        if self._leg is not None:
            self._leg.refresh()

    def fill(self) -> int | None:
        """Encode the memories without a vector, however many; return their number, None without vectors at all."""
        return None if self._leg is None else self._leg.fill()

    def close(self) -> None:
        """Write the vectors of memories that were written since the vectors were opened."""
        try:
            if self._vectors is not None:
                self._vectors.flush()
        except (AceFinetuneError, OSError) as error:
            logger.warning("sparse vectors of new memories were not stored: %s", error)

    def _call(self, deadline: Deadline | None, function: Callable[[SparseLeg], _Result]) -> _Result | None:
        leg = self._leg
        if leg is None:
            self._chain.report("sparse", "missing", "there are no sparse vectors of the memories", quiet=True)
            return None
        if not self._breaker.allows():
            self._chain.report("sparse", "paused", "it is skipped for a cool-down after failures", quiet=True)
            return None
        try:
            found = (deadline or self._threads.deadline()).call(lambda: function(leg), fraction=_FRACTION)
        except Exception as error:  # of any library, or of the file system
            self._breaker.failed()
            reason = "timeout" if isinstance(error, TimeoutError) else "error"
            self._chain.report("sparse", reason, str(error) or type(error).__name__)
            return None
        self._breaker.succeeded()
        return found
