"""ShadowRetriever: serves one retriever, and searches with a candidate in the background, to see where they differ."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any, Final

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.rank_biased_overlap import rank_biased_overlap
from llama_index_ace_finetune.production.background import in_thread
from llama_index_ace_finetune.production.comparison import COMPARISON, Comparison, own_bundle, require_retriever
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import RetrievalRecord, logged_hits
from llama_index_ace_finetune.production.timed_retriever import TimedRetriever

SHADOW_OF: Final = "shadow_of"
"""In the record of a search in the background: the id of the query that A served."""


class ShadowRetriever(TimedRetriever):
    """Serves A only; B searches the same queries in the background, and no result of B is shown to anybody.

    The log gets the results of B where they differ, with their rank-biased overlap and the seconds of B;
    `ace-finetune compare-live --judge` writes these queries to a file in which a person or an LLM judges the results of
    both without knowing whose they are. A failure of B is counted in `failures` and logged.

    Args:
        a: the retriever that serves.
        b: the candidate.
        query_log: to write to.
        name: of the comparison in the log.
        limit: number of searches of B at the same time; further queries are not searched by B, and counted in
            `skipped`.
        max_overlap: store results of B whose rank-biased overlap with those of A is below this; 1 stores every
            difference.
        options: of LlamaIndex's `BaseRetriever`.

    Raises:
        AceFinetuneError: for an invalid option.
    """

    def __init__(
        self,
        a: BaseRetriever,
        b: BaseRetriever,
        *,
        query_log: QueryLog,
        name: str = "shadow",
        limit: int = 2,
        max_overlap: float = 1.0,
        **options: Any,
    ) -> None:
        require_retriever(a, "A")
        require_retriever(b, "B")
        if limit < 1:
            raise AceFinetuneError(f"The limit of searches in the background is {limit}; it must be 1 or more.")
        if not 0 < max_overlap <= 1:
            raise AceFinetuneError(f"max_overlap is {max_overlap}; it must be above 0 and at most 1.")
        self._b, self._log, self._max_overlap = b, query_log, max_overlap
        self._limit, self._free = limit, threading.BoundedSemaphore(limit)
        self.skipped = 0
        self.comparison = Comparison(name, "shadow", query_log)
        super().__init__(a, **options)

    @property
    def failures(self) -> Counter[str]:
        """Number of failures of "b"; those of A are raised."""
        return self.comparison.failures

    def wait(self, timeout: float = 10.0) -> bool:
        """Wait for the searches in the background; return False if that takes longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        taken = 0
        while taken < self._limit and self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            taken += 1
        for _ in range(taken):
            self._free.release()
        return taken == self._limit

    def _serve(self, query: QueryBundle, results: list[NodeWithScore], seconds: float) -> list[NodeWithScore]:
        shadowed = self._free.acquire(blocking=False)
        self.skipped += not shadowed
        try:
            query_id = self.comparison.new_query_id()
            served = self.comparison.serve(
                query,
                [(result, None) for result in results],
                query_id=query_id,
                seconds=seconds,
                served="a",
                shadowed=shadowed,
            )
        except BaseException:
            if shadowed:
                self._free.release()
            raise
        if shadowed:
            in_thread(self._search_b, query, [result.node.node_id for result in results], query_id)
        return served

    def _search_b(self, query: QueryBundle, ids_of_a: list[str], query_id: str | None) -> None:
        try:
            start = time.perf_counter()
            found, failed = self._results_of_b(query)
            seconds = time.perf_counter() - start
            ids = list(dict.fromkeys(result.node.node_id for result in found))
            overlap = rank_biased_overlap(list(dict.fromkeys(ids_of_a)), ids)
            differs = failed or (overlap < self._max_overlap and ids != ids_of_a)
            new_id = self._log.new_query_id() if differs and query_id is not None else None
            if new_id is None:
                return
            facts = self.comparison.facts(**{SHADOW_OF: query_id, "overlap": overlap})
            if failed:
                facts["failed"] = "b"
            self._log.write(
                RetrievalRecord(
                    query_id=new_id,
                    time=time.time(),
                    query=query.query_str,
                    hits=logged_hits(found),
                    seconds=seconds,
                    team=self.comparison.ids["b"],
                    extra={COMPARISON: facts},
                )
            )
        finally:
            self._free.release()

    def _results_of_b(self, query: QueryBundle) -> tuple[list[NodeWithScore], bool]:
        try:
            return self._b.retrieve(own_bundle(query)), False
        except Exception as error:
            self.comparison.count_failure("b", error)
            return [], True
