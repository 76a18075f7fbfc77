"""Hybrid search over one store: its legs, their fusion, and the fallback chain of models."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import BaseNode, QueryBundle
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.encoders.stored_windows import StoredWindows
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.ranking.bm25 import BM25Settings
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.ranking.known_field import FIELD_LEGS
from llama_index_ace_finetune.ranking.lexical_indexes import LEXICAL_LEGS
from llama_index_ace_finetune.retrievers.deadline import Deadline
from llama_index_ace_finetune.retrievers.fallback import FallbackChain, FallbackSettings, Serve
from llama_index_ace_finetune.retrievers.fuse import FusedMemory, candidate_ids, fuse_by_rank, fuse_by_score
from llama_index_ace_finetune.retrievers.legs.known_field import KnownField
from llama_index_ace_finetune.retrievers.legs.known_query_search import KnownQuerySearch
from llama_index_ace_finetune.retrievers.legs.leg_hit import LegHit, ranked
from llama_index_ace_finetune.retrievers.legs.lexical_leg import LexicalLeg
from llama_index_ace_finetune.retrievers.legs.server_token_leg import ServerTokenLeg
from llama_index_ace_finetune.retrievers.legs.token_leg import TokenLeg
from llama_index_ace_finetune.retrievers.legs.window_search import WindowSearch
from llama_index_ace_finetune.retrievers.model_legs import Hits, ModelHits, ModelLegs, needs_model, over_threshold
from llama_index_ace_finetune.retrievers.results import copies, results
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory
from llama_index_ace_finetune.retrievers.search_settings import LEXICAL, LegWeights, SearchSettings
from llama_index_ace_finetune.retrievers.search_threads import SearchThreads
from llama_index_ace_finetune.retrievers.sparse_search import SparseSearch
from llama_index_ace_finetune.stores.known_queries import StoredKnownQueries
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates

Sparse = Literal["in_process", "server"]


def require_sparse(sparse: str) -> None:
    """Raise AceFinetuneError unless it is one of `Sparse`."""
    if sparse not in ("in_process", "server"):
        raise AceFinetuneError(f"The sparse leg is {sparse!r}; it must be in_process or server.")


class HybridSearch:
    """The legs over a store, and the fallback chain of models for those that need one.

    `served` counts the answered searches by what served them, see `ServedBy`; `fallbacks` counts the fallbacks and the
    legs that were skipped.
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        embed_model: BaseEmbedding | None,
        baseline_model: BaseEmbedding | None = None,
        reranker: TokenReranker | None = None,
        sparse_vectors: StoredSparseVectors | None = None,
        known_queries: StoredKnownQueries | None = None,
        windows: StoredWindows | None = None,
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
        settings = fallback or FallbackSettings()
        self.chain = FallbackChain(
            store, embed_model=embed_model, baseline_model=baseline_model, settings=settings, serve=serve
        )
        self.lexical = {leg: LexicalLeg(store, leg, settings=bm25) for leg in LEXICAL_LEGS}
        self._threads = SearchThreads(store, settings.timeout)
        self.late: TokenLeg | ServerTokenLeg | None = None
        if reranker is not None:
            self.late = TokenLeg(store, reranker)
        elif store.tokens is not None:
            self.late = ServerTokenLeg(store, store.tokens)
        self._known = None if known_queries is None else KnownQuerySearch(store, known_queries)
        self._field = KnownField(store, known_queries, bm25)
        self._windows = None if windows is None else WindowSearch(store, windows)
        self._models = ModelLegs(store, self.chain, self.late, self._threads, self._known, self._windows)
        self._sparse_search = SparseSearch(store, sparse_vectors, self.chain, self._threads)

    @property
    def fallbacks(self) -> Counter[tuple[str, str]]:
        """Number of fallbacks and skipped legs, by name and reason."""
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
        """`run` with the legs in parallel, off the event loop."""
        if self.sparse == "server" or settings.mode != "hybrid":
            return (await self.arun_many([bundle], settings))[0]
        queries, deadline = [_without_surrogates(bundle)], self._threads.deadline_from_now()
        start, wait = self._threads.start, self._threads.wait_until
        async with self._threads.turn():
            searches = asyncio.gather(
                start(self._models.search, queries, settings, deadline),
                start(self._search_lexical, queries, settings, deadline),
            )
            dense, lexical = await wait(searches, deadline)
            return (await wait(start(self._results, queries, dense, lexical, settings, deadline), deadline))[0]

    async def arun_many(self, bundles: Sequence[QueryBundle], settings: SearchSettings) -> list[list[RetrievedMemory]]:
        """`run_many` off the event loop."""
        deadline = self._threads.deadline_from_now()
        async with self._threads.turn():
            return await self._threads.wait_until(
                self._threads.start(self._run_many, bundles, settings, deadline), deadline
            )

    def embed(self, text: str) -> list[float]:
        """Return the query vector of the model that serves: the tuned one, else the baseline."""
        embedded = self.chain.embed([QueryBundle(text)])
        if embedded is None:
            raise ModelError("Neither the tuned model nor the baseline is available; see the log for the reasons.")
        vector: list[float] = embedded.vectors[0].tolist()
        return vector

    def refresh(self) -> None:
        """Rebuild the lexical indexes from the store before the next search."""
        for leg in self.lexical.values():
            leg.refresh()
        self._field.refresh()
        self._sparse_search.refresh()
        if self.late is not None:
            self.late.refresh()
        for further in (self._known, self._windows):
            if further is not None:
                further.refresh()

    def fill_sparse(self) -> int | None:
        """Encode the memories without a sparse vector; return their number, None without a sparse encoder."""
        return self._sparse_search.fill()

    def fill_windows(self) -> int | None:
        """Encode the windows of the memories that were not looked at yet; return their number, None without windows."""
        return None if self._windows is None else self._windows.fill()

    def close(self) -> None:
        """Release the store and the threads."""
        self._threads.close()
        self._sparse_search.close()
        if self._windows is not None:
            self._windows.close()
        self.store.close()

    def _run_many(
        self, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline | None = None
    ) -> list[list[RetrievedMemory]]:
        deadline = deadline or self._threads.deadline()
        queries = [_without_surrogates(bundle) for bundle in bundles]
        if self.sparse == "server" and settings.mode == "hybrid" and len(queries) == 1:
            dense, lexical = self._search_both(queries[0], settings, deadline)
        else:
            dense = self._models.search(queries, settings, deadline)
            lexical = self._search_lexical(queries, settings, deadline)
        return self._results(queries, dense, lexical, settings, deadline)

    # -------------------------------------------------------------------------------------------- lexical legs

    def _search_lexical(
        self, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline | None
    ) -> Hits:
        found: Hits = {leg: self._search_leg(leg, bundles, settings, deadline) for leg in settings.lexical_legs}
        if settings.mode == "hybrid" and "sparse" in settings.legs(self.chain.intended).weights:
            sparse = self._sparse_search.search(bundles, settings, deadline)
            if sparse is not None:
                found["sparse"] = sparse
        return found

    def _search_leg(
        self, leg: Leg, bundles: Sequence[QueryBundle], settings: SearchSettings, deadline: Deadline | None
    ) -> list[list[LegHit]]:
        search = self.store.search_sparse if self._by_server(leg) else self._lexical_leg(leg, settings).search
        depth, query_filter = settings.depth(settings.sparse_top_k), settings.query_filter()
        return self._threads.call(
            deadline,
            lambda: [
                ranked(search(bundle.query_str, depth, query_filter=query_filter)) if bundle.query_str.strip() else []
                for bundle in bundles
            ],
        )

    def _by_server(self, leg: Leg) -> bool:
        return leg == "bm25" and self.sparse == "server"

    def _lexical_leg(self, leg: Leg, settings: SearchSettings) -> LexicalLeg:
        """Return a leg in this process: BM25 with known queries if the settings give these a weight."""
        return self._field.leg(leg, settings.known_query_weight) or self.lexical[leg]

    def _lexical_scores(
        self, leg: Leg, query: str, ids: Sequence[str], settings: SearchSettings
    ) -> NDArray[np.float64]:
        if not self._by_server(leg):
            return self._lexical_leg(leg, settings).scores(query, ids)
        found = dict(self.store.sparse_scores(query, ids))
        return np.array([found.get(node_id, 0.0) for node_id in ids])

    def _search_both(self, bundle: QueryBundle, settings: SearchSettings, deadline: Deadline) -> tuple[ModelHits, Hits]:
        """Search the dense leg and BM25 of one query in one round trip to the server."""
        embedded = self._models.embed([bundle], settings, deadline) if bundle.query_str.strip() else None
        both = {"dense", "bm25"}
        if embedded is None or set(settings.legs(embedded.served).weights) != both or len(settings.lexical_legs) != 1:
            return (
                self._models.search([bundle], settings, deadline, embedded=embedded),
                self._search_lexical([bundle], settings, deadline),
            )
        dense, lexical = self._threads.call(
            deadline,
            lambda: self.store.search_both(
                embedded.name,
                embedded.vectors[0].tolist(),
                bundle.query_str,
                dense_k=settings.depth(settings.dense_top_k),
                sparse_k=settings.depth(settings.sparse_top_k),
                query_filter=settings.query_filter(),
            ),
        )
        found = ModelHits(
            embedded.served, vectors={"dense": (embedded.name, {0: embedded.vectors[0]})}, deadline=deadline
        )
        self._models.prepare_windows(found, settings)
        merge = self._models.merge_further_vectors
        nearest = self._threads.call(deadline, lambda: merge(dense, embedded.vectors[0], settings, found))
        found.hits["dense"] = [over_threshold(nearest, settings)]
        return found, {"bm25": [ranked(lexical)]}

    # --------------------------------------------------------------------------------------------------- results

    def _results(
        self,
        bundles: Sequence[QueryBundle],
        dense: ModelHits,
        lexical: Hits,
        settings: SearchSettings,
        deadline: Deadline | None,
    ) -> list[list[RetrievedMemory]]:
        served_by, legs = dense.served_by, settings.legs(dense.served_by)
        for leg in legs.weights:
            if leg == "sparse" and served_by != self.chain.intended and leg not in lexical:
                sparse = self._sparse_search.search(bundles, settings, deadline)
                lexical |= {} if sparse is None else {leg: sparse}
            if leg in LEXICAL_LEGS and leg not in lexical:
                lexical[leg] = self._search_leg(leg, bundles, settings, deadline)
        hits = {leg: found for leg, found in {**dense.hits, **lexical}.items() if leg in legs.weights}
        fused = [
            self._fuse(place, bundle.query_str, {leg: found[place] for leg, found in hits.items()}, dense, settings)
            for place, bundle in enumerate(bundles)
        ]
        nodes = self._threads.call(deadline, lambda: self._nodes([found for found, _ in fused], settings.top_k))
        # A leg of weight 0 shows its ranks in the results, but does not affect the ranking.
        if served_by == self.chain.intended and not needs_model(legs, weighted=True):
            served_by = LEXICAL
        with self._lock:
            self.served[served_by] += len(bundles)
        single = len(fused) == 1
        return [
            results(found, nodes if single else copies(found, nodes, settings.top_k), served_by, settings, skipped)
            for found, skipped in fused
        ]

    def _fuse(
        self, place: int, query: str, hits: Mapping[Leg, list[LegHit]], dense: ModelHits, settings: SearchSettings
    ) -> tuple[list[FusedMemory], list[str]]:
        """Return the fused ranking of the query at a place, and the legs that were skipped."""
        legs, skipped = settings.legs(dense.served_by), list(dense.skipped)
        if "sparse" in legs.weights and "sparse" not in hits:
            skipped.append("sparse")
        if self._lacks_known_queries(settings, legs, dense):
            skipped.append("known_queries")
        if legs.kind == "rrf":
            return fuse_by_rank(hits, legs.weights, k=settings.rrf_k), skipped
        hits = {leg: found for leg, found in hits.items() if legs.weights[leg] > 0}
        ids = candidate_ids(hits)
        scores: dict[Leg, NDArray[np.float64]] = {}
        if "sparse" in hits and ids:
            sparse = self._sparse_search.scores(query, ids, dense.deadline)
            if sparse is None:
                skipped.append("sparse")
                hits = {leg: found for leg, found in hits.items() if leg != "sparse"}
                ids = candidate_ids(hits)
            else:
                scores["sparse"] = sparse
        for leg in legs.weights if ids else ():
            if leg in LEXICAL_LEGS:
                scores[leg] = self._lexical_scores(leg, query, ids, settings)
            elif leg == "late":
                found = self._models.late_scores(place, dense, ids)
                if found is None:
                    skipped.append(leg)
                else:
                    scores[leg] = found
            elif leg in dense.vectors:
                scores[leg] = self._models.cosines(leg, place, dense, ids, settings)
        scores = {leg: values for leg, values in scores.items() if legs.weights[leg] > 0}
        return fuse_by_score(hits, ids, scores, legs.weights), skipped

    def _lacks_known_queries(self, settings: SearchSettings, legs: LegWeights, dense: ModelHits) -> bool:
        """Whether known queries are wanted and cannot be used, in the dense leg or in BM25."""
        wanted = settings.known_query_offset is not None and "dense" in dense.vectors
        if wanted and not self._models.uses_known_queries("dense", settings, dense.served_by):
            return True
        weight = settings.known_query_weight
        fields = [leg for leg in FIELD_LEGS if weight and legs.weights.get(leg, 0.0) > 0]
        return any(self._by_server(leg) or self._field.leg(leg, weight) is None for leg in fields)

    def _nodes(self, fused: list[list[FusedMemory]], top_k: int) -> dict[str, BaseNode]:
        """Return the nodes of the best hits; of all hits if some of the best cannot be read or are deleted."""
        best = {memory.node_id for found in fused for memory in found[:top_k]}
        nodes = self.store.get(list(best))
        if len(nodes) < len(best):
            nodes |= self.store.get(list({memory.node_id for found in fused for memory in found} - best))
        return nodes


def _without_surrogates(bundle: QueryBundle) -> QueryBundle:
    """Return the bundle with lone surrogates replaced."""
    text = replace_lone_surrogates(bundle.query_str)
    return bundle if text == bundle.query_str else replace(bundle, query_str=text)
