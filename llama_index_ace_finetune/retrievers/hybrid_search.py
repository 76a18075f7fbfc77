"""Hybrid search over one store: both legs, their fusion, and the ladder of fallbacks."""

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
from llama_index_ace_finetune.ranking.fusion import FusedHit, reciprocal_rank_fusion
from llama_index_ace_finetune.retrievers.bm25_leg import LegHit, LexicalLeg, ranked
from llama_index_ace_finetune.retrievers.deadline import Deadline
from llama_index_ace_finetune.retrievers.fallback import Embedded, FallbackSettings, ModelLadder, Serve
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory, ServedBy
from llama_index_ace_finetune.retrievers.search_settings import LEXICAL, SearchSettings
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.fork import fork_safe_lock, renew_after_fork
from llama_index_ace_finetune.utils.surrogates import whole_text

Sparse = Literal["in_process", "server"]
# Few, since every thread that computes keeps the event loop waiting for some milliseconds; a server is waited for.
_THREADS, _THREADS_OF_A_SERVER = 2, 16
# LlamaIndex takes a score of 0 on a node that points elsewhere for none, and makes it 1.
_NEXT_TO_NOTHING = 1e-9
# Seconds by which an asynchronous search may outlast its deadline before it is given up from outside.
_SLACK = 0.1
_Result = TypeVar("_Result")
_Dense = tuple[ServedBy, list[list[LegHit]]]


def require_sparse(sparse: str) -> None:
    """Raise AceFinetuneError for a place where words cannot be searched."""
    if sparse not in ("in_process", "server"):
        raise AceFinetuneError(f"The sparse leg is {sparse!r}; it must be in_process or server.")


class HybridSearch:
    """The legs over a store, and which model serves the dense one.

    `served` counts what served each search that was answered, see `ServedBy`; `fallbacks` the steps down to it.
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
            store.search_words("", 1)  # raises: there are no BM25 vectors
        self.store = store
        self.sparse: Sparse = sparse
        self.served: Counter[str] = Counter()
        self._counting = fork_safe_lock()
        self.ladder = ModelLadder(
            store,
            embed_model=embed_model,
            baseline_model=baseline_model,
            settings=fallback or FallbackSettings(),
            serve=serve,
        )
        self.lexical = LexicalLeg(store, settings=bm25)
        self._pool = self._new_pool()
        renew_after_fork(self, HybridSearch._renew)

    @property
    def fallbacks(self) -> Counter[tuple[str, str]]:
        """How often which step of the ladder was left, and why."""
        return self.ladder.fallbacks

    def run(self, bundle: QueryBundle, settings: SearchSettings) -> list[RetrievedMemory]:
        """Search; an empty list means that nothing matched."""
        return self.run_many([bundle], settings)[0]

    def run_many(self, bundles: Sequence[QueryBundle], settings: SearchSettings) -> list[list[RetrievedMemory]]:
        """Return `run` of each bundle; the queries are embedded and multiplied with the vectors together.

        Raises:
            StoreError: if the store fails, or does not answer before the timeout.
        """
        return self._run_many(bundles, settings)

    async def arun(self, bundle: QueryBundle, settings: SearchSettings) -> list[RetrievedMemory]:
        """`run` with both legs at the same time, off the event loop."""
        if self.sparse == "server" or settings.mode != "hybrid":
            return (await self.arun_many([bundle], settings))[0]
        asked, deadline = [_encodable(bundle)], self._from_now()
        both = asyncio.gather(
            self._in_thread(self._dense, asked, settings, deadline),
            self._in_thread(self._words, asked, settings, deadline),
        )
        dense, words = await self._in_time(both, deadline)
        results = self._in_thread(self._results, dense, words, settings, deadline)
        return (await self._in_time(results, deadline))[0]

    async def arun_many(self, bundles: Sequence[QueryBundle], settings: SearchSettings) -> list[list[RetrievedMemory]]:
        """`run_many` off the event loop."""
        deadline = self._from_now()
        return await self._in_time(self._in_thread(self._run_many, bundles, settings, deadline), deadline)

    def embed(self, text: str) -> list[float]:
        """Return the query vector of the model that serves: the tuned one, else the baseline."""
        embedded = self.ladder.embed([QueryBundle(text)])
        if embedded is None:
            raise ModelError("Neither the tuned model nor the baseline is available; the log gives the reasons.")
        vector: list[float] = embedded.vectors[0].tolist()
        return vector

    def close(self) -> None:
        """Release the store and the threads."""
        self._pool.shutdown(wait=False)
        self.store.close()

    def _new_pool(self) -> ThreadPoolExecutor:
        threads = _THREADS if self.store.embedded else _THREADS_OF_A_SERVER
        return ThreadPoolExecutor(threads, thread_name_prefix="ace-finetune-search")

    def _renew(self) -> None:
        self._pool = self._new_pool()

    def _deadline(self) -> Deadline:
        return Deadline(self.ladder.settings.timeout)

    def _from_now(self) -> Deadline | None:
        """Count the wait for a thread where a server makes it long; else time starts with the work."""
        return None if self.store.embedded else self._deadline()

    def _from_store(self, deadline: Deadline | None, function: Callable[[], _Result]) -> _Result:
        """Return what the store answers; a server may send without end, which no timeout of a connection notices."""
        if self.store.embedded or deadline is None:
            return function()
        try:
            return deadline.call(function)
        except TimeoutError as error:
            raise self._late(deadline) from error

    async def _in_time(self, answer: asyncio.Future[_Result], deadline: Deadline | None) -> _Result:
        """Wait for a thread, the time until one is free included."""
        if deadline is None or deadline.left is None:
            return await answer
        try:
            return await asyncio.wait_for(answer, deadline.left + _SLACK)
        except (TimeoutError, asyncio.TimeoutError) as error:  # one class from Python 3.11 on
            raise self._late(deadline) from error

    def _late(self, deadline: Deadline) -> StoreError:
        return StoreError(
            f"The index in {self.store.where} did not answer before the {deadline.seconds:g} seconds of the query were "
            "over; check the server, or raise `timeout`."
        )

    def _in_thread(self, function: Callable[..., _Result], *arguments: Any) -> asyncio.Future[_Result]:
        context = contextvars.copy_context()  # instrumentation spans live there
        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, context.run, function, *arguments)
        except RuntimeError:  # the pool was closed with the store, whose error says more
            return asyncio.get_running_loop().run_in_executor(None, context.run, function, *arguments)

    def _run_many(
        self, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline | None = None
    ) -> list[list[RetrievedMemory]]:
        deadline = deadline or self._deadline()
        asked = [_encodable(bundle) for bundle in bundles]
        if self.sparse == "server" and settings.mode == "hybrid" and len(asked) == 1:
            dense, words = self._both(asked[0], settings, deadline)
        else:
            dense, words = self._dense(asked, settings, deadline), self._words(asked, settings, deadline)
        return self._results(dense, words, settings, deadline)

    def _embed(self, bundles: Sequence[QueryBundle], deadline: Deadline) -> Embedded | None:
        # A query that waited for others is no sign of a dead model.
        if deadline.is_nearly_over:
            raise self._late(deadline)
        return self.ladder.embed(bundles, deadline)

    def _dense(self, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline | None) -> _Dense:
        if settings.mode == "sparse":
            return LEXICAL, [[] for _ in bundles]
        hits: list[list[LegHit]] = [[] for _ in bundles]
        deadline = deadline or self._deadline()
        full = [place for place, bundle in enumerate(bundles) if bundle.query_str.strip()]
        if not full:
            return self.ladder.first, hits
        embedded = self._embed([bundles[place] for place in full], deadline)
        if embedded is None:
            return _lexical_alone(settings), hits
        name, served, vectors = embedded
        depth, only = settings.depth(settings.dense_top_k), settings.condition()
        found = self._from_store(deadline, lambda: self.store.search_batch(name, vectors, depth, only=only))
        for place, nearest in zip(full, found, strict=True):
            hits[place] = _above(nearest, settings)
        return served, hits

    def _words(
        self, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline | None
    ) -> list[list[LegHit]]:
        if settings.mode == "dense":
            return [[] for _ in bundles]
        search = self.store.search_words if self.sparse == "server" else self.lexical.search
        depth, only = settings.depth(settings.sparse_top_k), settings.condition()
        return self._from_store(
            deadline,
            lambda: [
                ranked(search(bundle.query_str, depth, only=only)) if bundle.query_str.strip() else []
                for bundle in bundles
            ],
        )

    def _both(
        self, bundle: QueryBundle, settings: SearchSettings, deadline: Deadline
    ) -> tuple[_Dense, list[list[LegHit]]]:
        """Both legs of one query in one round trip to the server."""
        if not bundle.query_str.strip():
            return self._dense([bundle], settings, deadline), self._words([bundle], settings, deadline)
        embedded = self._embed([bundle], deadline)
        if embedded is None:
            return (_lexical_alone(settings), [[]]), self._words([bundle], settings, deadline)
        name, served, vectors = embedded
        dense, words = self._from_store(
            deadline,
            lambda: self.store.search_both(
                name,
                vectors[0].tolist(),
                bundle.query_str,
                dense_k=settings.depth(settings.dense_top_k),
                words_k=settings.depth(settings.sparse_top_k),
                only=settings.condition(),
            ),
        )
        return (served, [_above(dense, settings)]), [ranked(words)]

    def _results(
        self, dense: _Dense, words: list[list[LegHit]], settings: SearchSettings, deadline: Deadline | None
    ) -> list[list[RetrievedMemory]]:
        served_by, nearest = dense
        fused = [_fuse(*legs, served_by, settings) for legs in zip(nearest, words, strict=True)]
        nodes = self._from_store(deadline, lambda: self._nodes(fused, settings.top_k))
        # A leg without weight shows its ranks, and has no part in the ranking.
        if served_by == self.ladder.chosen and not settings.leg_weights(served_by)[0]:
            served_by = LEXICAL
        with self._counting:
            self.served[served_by] += len(words)
        alone = len(fused) == 1
        return [
            # Queries of one batch must not share a node, which a caller may change.
            _results(hits, legs, nodes if alone else _copies(hits, nodes), served_by, settings)
            for hits, legs in zip(fused, zip(nearest, words, strict=True), strict=True)
        ]

    def _nodes(self, fused: list[list[tuple[str, FusedHit]]], top_k: int) -> dict[str, BaseNode]:
        """Return the nodes of the best hits, and of those after them where some cannot be read or are gone."""
        best = {node_id for hits in fused for node_id, _ in hits[:top_k]}
        nodes = self.store.get(list(best))
        if len(nodes) < len(best):
            nodes |= self.store.get(list({node_id for hits in fused for node_id, _ in hits} - best))
        return nodes


def _encodable(bundle: QueryBundle) -> QueryBundle:
    """Return the bundle without half characters."""
    text = whole_text(bundle.query_str)
    return bundle if text == bundle.query_str else replace(bundle, query_str=text)


def _lexical_alone(settings: SearchSettings) -> ServedBy:
    if settings.mode == "dense":
        raise ModelError("Neither the tuned model nor the baseline can serve; the log gives the reasons.")
    return LEXICAL


def _above(hits: list[tuple[str, float]], settings: SearchSettings) -> list[LegHit]:
    floor = settings.threshold if settings.threshold is not None else float("-inf")
    return ranked([hit for hit in hits if hit[1] >= floor])


def _fuse(
    dense: list[LegHit], words: list[LegHit], served_by: ServedBy, settings: SearchSettings
) -> list[tuple[str, FusedHit]]:
    """Return node ids with their fused hit, best first, ties by node id."""
    ids = sorted({hit.node_id for hit in [*dense, *words]})
    row = {node_id: number for number, node_id in enumerate(ids)}
    fused = reciprocal_rank_fusion(
        [[row[hit.node_id] for hit in dense], [row[hit.node_id] for hit in words]],
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
    there = [(node_id, hit) for node_id, hit in fused if node_id in nodes]  # others cannot be read, or are deleted
    for node_id, hit in there[: settings.top_k]:
        in_dense, in_words = (leg.get(node_id) for leg in by_id)
        own = {"hybrid": None, "dense": in_dense, "sparse": in_words}[settings.mode]
        node, score = nodes[node_id], own.score if own else hit.scaled
        if isinstance(node, IndexNode):
            score = score or _NEXT_TO_NOTHING
        results.append(
            RetrievedMemory(
                node=node,
                score=score,
                served_by=served_by,
                rrf_score=hit.score,
                scaled_score=hit.scaled,
                dense_score=in_dense.score if in_dense else None,
                dense_rank=in_dense.rank if in_dense else None,
                sparse_score=in_words.score if in_words else None,
                sparse_rank=in_words.rank if in_words else None,
            )
        )
    return results
