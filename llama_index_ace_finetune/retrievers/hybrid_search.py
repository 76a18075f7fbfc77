"""Hybrid search over one store: the dense and the sparse leg, their fusion, and the fallback chain."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, TypeVar

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import BaseNode, IndexNode, QueryBundle

from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, StoreError
from llama_index_ace_finetune.ranking.bm25 import BM25Settings
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import FusedHit, reciprocal_rank_fusion
from llama_index_ace_finetune.retrievers.bm25_leg import BM25Leg, LegHit, ranked
from llama_index_ace_finetune.retrievers.deadline import Deadline
from llama_index_ace_finetune.retrievers.fallback import Embedded, FallbackChain, FallbackSettings, Serve
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory, ServedBy
from llama_index_ace_finetune.retrievers.search_settings import LEXICAL, SearchSettings
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.fork import fork_safe_lock, renew_after_fork
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates

Sparse = Literal["in_process", "server"]
# Few, since each computing thread delays the event loop by some milliseconds; with a server, threads only wait.
_THREADS, _SERVER_THREADS = 2, 16
# LlamaIndex treats a score of 0 of an IndexNode as missing, and replaces it by 1.
_SMALLEST_SCORE = 1e-9
# Seconds that an asynchronous search may exceed its deadline before the caller stops waiting for it.
_SLACK = 0.1
_Result = TypeVar("_Result")
_DenseHits = tuple[ServedBy, list[list[LegHit]]]


def require_sparse(sparse: str) -> None:
    """Raise AceFinetuneError unless it is one of `Sparse`."""
    if sparse not in ("in_process", "server"):
        raise AceFinetuneError(f"The sparse leg is {sparse!r}; it must be in_process or server.")


class HybridSearch:
    """The two legs over a store, and the fallback chain of models for the dense leg.

    `served` counts the answered searches by what served them, see `ServedBy`; `fallbacks` counts the fallbacks.
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        embed_model: BaseEmbedding | None,
        baseline_model: BaseEmbedding | None = None,
        fallback: FallbackSettings | None = None,
        sparse: Sparse = "in_process",
        bm25: BM25Settings | None = None,
        serve: Serve = "finetuned",
    ) -> None:
        require_sparse(sparse)
        if sparse == "server" and store.sparse is None:
            store.search_sparse("", 1)  # raises, since there are no BM25 vectors
        self.store = store
        self.sparse: Sparse = sparse
        self.served: Counter[str] = Counter()
        self._lock = fork_safe_lock()
        self.chain = FallbackChain(
            store,
            embed_model=embed_model,
            baseline_model=baseline_model,
            settings=fallback or FallbackSettings(),
            serve=serve,
        )
        self.lexical = BM25Leg(store, settings=bm25)
        self._pool = self._new_pool()
        renew_after_fork(self, HybridSearch._renew)

    @property
    def fallbacks(self) -> Counter[tuple[str, str]]:
        """Number of fallbacks, by model and reason."""
        return self.chain.fallbacks

    def run(self, bundle: QueryBundle, settings: SearchSettings) -> list[RetrievedMemory]:
        """Search; an empty list means no hits."""
        return self.run_many([bundle], settings)[0]

    def run_many(self, bundles: Sequence[QueryBundle], settings: SearchSettings) -> list[list[RetrievedMemory]]:
        """Return the results of each bundle; the queries are embedded and searched in one batch.

        Raises:
            StoreError: if the store fails, or does not answer before the timeout.
        """
        return self._run_many(bundles, settings)

    async def arun(self, bundle: QueryBundle, settings: SearchSettings) -> list[RetrievedMemory]:
        """`run` with both legs in parallel, off the event loop."""
        if self.sparse == "server" or settings.mode != "hybrid":
            return (await self.arun_many([bundle], settings))[0]
        queries, deadline = [_without_surrogates(bundle)], self._deadline_from_now()
        searches = asyncio.gather(
            self._in_thread(self._search_dense, queries, settings, deadline),
            self._in_thread(self._search_sparse, queries, settings, deadline),
        )
        dense, sparse_hits = await self._wait_until(searches, deadline)
        results = self._in_thread(self._results, dense, sparse_hits, settings, deadline)
        return (await self._wait_until(results, deadline))[0]

    async def arun_many(self, bundles: Sequence[QueryBundle], settings: SearchSettings) -> list[list[RetrievedMemory]]:
        """`run_many` off the event loop."""
        deadline = self._deadline_from_now()
        return await self._wait_until(self._in_thread(self._run_many, bundles, settings, deadline), deadline)

    def embed(self, text: str) -> list[float]:
        """Return the query vector of the model that serves: the tuned one, else the baseline."""
        embedded = self.chain.embed([QueryBundle(text)])
        if embedded is None:
            raise ModelError("Neither the tuned model nor the baseline is available; see the log for the reasons.")
        vector: list[float] = embedded.vectors[0].tolist()
        return vector

    def close(self) -> None:
        """Release the store and the threads."""
        self._pool.shutdown(wait=False)
        self.store.close()

    def _new_pool(self) -> ThreadPoolExecutor:
        threads = _THREADS if self.store.embedded else _SERVER_THREADS
        return ThreadPoolExecutor(threads, thread_name_prefix="ace-finetune-search")

    def _renew(self) -> None:
        self._pool = self._new_pool()

    def _deadline(self) -> Deadline:
        return Deadline(self.chain.settings.timeout)

    def _deadline_from_now(self) -> Deadline | None:
        """Return a deadline that includes the wait for a thread, which a slow server can make long; else None."""
        return None if self.store.embedded else self._deadline()

    def _call_store(self, deadline: Deadline | None, function: Callable[[], _Result]) -> _Result:
        """Call the store within the deadline: a server that keeps sending never reaches a connection's timeout."""
        if self.store.embedded or deadline is None:
            return function()
        try:
            return deadline.call(function)
        except TimeoutError as error:
            raise self._timeout_error(deadline) from error

    async def _wait_until(self, answer: asyncio.Future[_Result], deadline: Deadline | None) -> _Result:
        """Wait for a thread's result, including the time until a thread is free."""
        if deadline is None or deadline.remaining is None:
            return await answer
        try:
            return await asyncio.wait_for(answer, deadline.remaining + _SLACK)
        except (TimeoutError, asyncio.TimeoutError) as error:  # one class from Python 3.11 on
            raise self._timeout_error(deadline) from error

    def _timeout_error(self, deadline: Deadline) -> StoreError:
        return StoreError(
            f"The index in {self.store.location} did not answer within the {deadline.seconds:g} seconds of the query; "
            "check the server, or increase `timeout`."
        )

    def _in_thread(self, function: Callable[..., _Result], *arguments: Any) -> asyncio.Future[_Result]:
        context = contextvars.copy_context()  # it holds the instrumentation spans
        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, context.run, function, *arguments)
        except RuntimeError:  # the pool was closed with the store, whose error is clearer
            return asyncio.get_running_loop().run_in_executor(None, context.run, function, *arguments)

    def _run_many(
        self, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline | None = None
    ) -> list[list[RetrievedMemory]]:
        deadline = deadline or self._deadline()
        queries = [_without_surrogates(bundle) for bundle in bundles]
        if self.sparse == "server" and settings.mode == "hybrid" and len(queries) == 1:
            dense, sparse_hits = self._search_both(queries[0], settings, deadline)
        else:
            dense, sparse_hits = (
                self._search_dense(queries, settings, deadline),
                self._search_sparse(queries, settings, deadline),
            )
        return self._results(dense, sparse_hits, settings, deadline)

    def _embed(self, bundles: Sequence[QueryBundle], deadline: Deadline) -> Embedded | None:
        # A query that waited for other queries says nothing about the model.
        if deadline.is_nearly_over:
            raise self._timeout_error(deadline)
        return self.chain.embed(bundles, deadline)

    def _search_dense(
        self, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline | None
    ) -> _DenseHits:
        if settings.mode == "sparse":
            return LEXICAL, [[] for _ in bundles]
        hits: list[list[LegHit]] = [[] for _ in bundles]
        deadline = deadline or self._deadline()
        non_empty = [position for position, bundle in enumerate(bundles) if bundle.query_str.strip()]
        if not non_empty:
            return self.chain.primary, hits
        embedded = self._embed([bundles[position] for position in non_empty], deadline)
        if embedded is None:
            return _lexical_only(settings), hits
        name, served, vectors = embedded
        depth, query_filter = settings.depth(settings.dense_top_k), settings.query_filter()
        found = self._call_store(
            deadline, lambda: self.store.search_batch(name, vectors, depth, query_filter=query_filter)
        )
        for position, nearest in zip(non_empty, found, strict=True):
            hits[position] = _over_threshold(nearest, settings)
        return served, hits

    def _search_sparse(
        self, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline | None
    ) -> list[list[LegHit]]:
        if settings.mode == "dense":
            return [[] for _ in bundles]
        search = self.store.search_sparse if self.sparse == "server" else self.lexical.search
        depth, query_filter = settings.depth(settings.sparse_top_k), settings.query_filter()
        return self._call_store(
            deadline,
            lambda: [
                ranked(search(bundle.query_str, depth, query_filter=query_filter)) if bundle.query_str.strip() else []
                for bundle in bundles
            ],
        )

    def _search_both(
        self, bundle: QueryBundle, settings: SearchSettings, deadline: Deadline
    ) -> tuple[_DenseHits, list[list[LegHit]]]:
        """Search both legs of one query in one round trip to the server."""
        if not bundle.query_str.strip():
            return self._search_dense([bundle], settings, deadline), self._search_sparse([bundle], settings, deadline)
        embedded = self._embed([bundle], deadline)
        if embedded is None:
            return (_lexical_only(settings), [[]]), self._search_sparse([bundle], settings, deadline)
        name, served, vectors = embedded
        dense, sparse_hits = self._call_store(
            deadline,
            lambda: self.store.search_both(
                name,
                vectors[0].tolist(),
                bundle.query_str,
                dense_k=settings.depth(settings.dense_top_k),
                sparse_k=settings.depth(settings.sparse_top_k),
                query_filter=settings.query_filter(),
            ),
        )
        return (served, [_over_threshold(dense, settings)]), [ranked(sparse_hits)]

    def _results(
        self, dense: _DenseHits, sparse_hits: list[list[LegHit]], settings: SearchSettings, deadline: Deadline | None
    ) -> list[list[RetrievedMemory]]:
        served_by, nearest = dense
        fused = [_fuse(*legs, served_by, settings) for legs in zip(nearest, sparse_hits, strict=True)]
        nodes = self._call_store(deadline, lambda: self._nodes(fused, settings.top_k))
        # A leg of weight 0 shows its ranks in the results, but does not affect the ranking.
        if served_by == self.chain.intended and not settings.leg_weights(served_by)[0]:
            served_by = LEXICAL
        with self._lock:
            self.served[served_by] += len(sparse_hits)
        single = len(fused) == 1
        return [
            # Queries of one batch must not share nodes, since callers may change them.
            _results(hits, legs, nodes if single else _copies(hits, nodes), served_by, settings)
            for hits, legs in zip(fused, zip(nearest, sparse_hits, strict=True), strict=True)
        ]

    def _nodes(self, fused: list[list[tuple[str, FusedHit]]], top_k: int) -> dict[str, BaseNode]:
        """Return the nodes of the best hits; of all hits if some of the best cannot be read or are deleted."""
        best = {node_id for hits in fused for node_id, _ in hits[:top_k]}
        nodes = self.store.get(list(best))
        if len(nodes) < len(best):
            nodes |= self.store.get(list({node_id for hits in fused for node_id, _ in hits} - best))
        return nodes


def _without_surrogates(bundle: QueryBundle) -> QueryBundle:
    """Return the bundle with lone surrogates replaced."""
    text = replace_lone_surrogates(bundle.query_str)
    return bundle if text == bundle.query_str else replace(bundle, query_str=text)


def _lexical_only(settings: SearchSettings) -> ServedBy:
    if settings.mode == "dense":
        raise ModelError("Neither the tuned model nor the baseline can serve; see the log for the reasons.")
    return LEXICAL


def _over_threshold(hits: list[tuple[str, float]], settings: SearchSettings) -> list[LegHit]:
    floor = settings.threshold if settings.threshold is not None else float("-inf")
    return ranked([hit for hit in hits if hit[1] >= floor])


def _fuse(
    dense: list[LegHit], sparse_hits: list[LegHit], served_by: ServedBy, settings: SearchSettings
) -> list[tuple[str, FusedHit]]:
    """Return node ids with their fused hits, best first, ties by node id."""
    ids = sorted({hit.node_id for hit in [*dense, *sparse_hits]})
    row = {node_id: number for number, node_id in enumerate(ids)}
    fused = reciprocal_rank_fusion(
        [[row[hit.node_id] for hit in dense], [row[hit.node_id] for hit in sparse_hits]],
        weights=settings.leg_weights(served_by),
        k=settings.rrf_k,
    )
    return [(ids[hit.row], hit) for hit in fused]


def _copies(fused: list[tuple[str, FusedHit]], nodes: dict[str, BaseNode]) -> dict[str, BaseNode]:
    return {node_id: nodes[node_id].model_copy(deep=True) for node_id, _ in fused if node_id in nodes}


def _results(
    fused: list[tuple[str, FusedHit]],
    legs: tuple[list[LegHit], list[LegHit]],
    nodes: dict[str, BaseNode],
    served_by: ServedBy,
    settings: SearchSettings,
) -> list[RetrievedMemory]:
    by_id = [{hit.node_id: hit for hit in leg} for leg in legs]
    results = []
    readable = [(node_id, hit) for node_id, hit in fused if node_id in nodes]  # others are unreadable or deleted
    for node_id, hit in readable[: settings.top_k]:
        in_dense, in_sparse = (leg.get(node_id) for leg in by_id)
        own = {"hybrid": None, "dense": in_dense, "sparse": in_sparse}[settings.mode]
        node, score = nodes[node_id], own.score if own else hit.scaled
        if isinstance(node, IndexNode):
            score = score or _SMALLEST_SCORE
        results.append(
            RetrievedMemory(
                node=node,
                score=score,
                served_by=served_by,
                rrf_score=hit.score,
                scaled_score=hit.scaled,
                dense_score=in_dense.score if in_dense else None,
                dense_rank=in_dense.rank if in_dense else None,
                sparse_score=in_sparse.score if in_sparse else None,
                sparse_rank=in_sparse.rank if in_sparse else None,
            )
        )
    return results
