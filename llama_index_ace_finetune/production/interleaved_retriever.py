"""InterleavedRetriever: two retrievers side by side, their results interleaved, to learn which one people use."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import Future
from random import Random
from typing import Any, Final

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.production.background import in_thread
from llama_index_ace_finetune.production.comparison import Comparison, own_bundle, require_retriever
from llama_index_ace_finetune.ranking.team_draft import Team, team_draft
from llama_index_ace_finetune.retrievers.search_event import SearchLog

Found = list[NodeWithScore] | BaseException
_TEAMS: Final[tuple[Team, Team]] = ("a", "b")


class InterleavedRetriever(BaseRetriever):
    """Serves one ranking made of those of two retrievers, by team-draft interleaving (`ranking.team_draft`).

    Both search each query at once. Every result carries the opaque id of the system that drafted it as `team`; a result
    that both rank next has none. With a `query_log`, `ace-finetune compare-live` says from the feedback which system
    people use more, and when you may stop. The ranking has as many results as the longer one.

    Scores are those of the system that drafted the result, so they need not decrease.

    If one system fails, the other one serves all results, which is logged, counted in `failures`, and left out of the
    comparison; if both fail, the error of A is raised.

    Args:
        a: the retriever that serves today.
        b: the candidate.
        name: of the comparison in the log.
        seed: of the coin; None for another one in each process.
        similarity_top_k: largest number of results; None for as many as the longer ranking has.
        timeout: seconds after which a system has failed; None waits.
        paused: serve A only; can be set at any time, and such queries are left out of the comparison.
        query_log: a `QueryLog`; give it to this retriever and not to `a` and `b`.
        options: of LlamaIndex's `BaseRetriever`, such as `callback_manager`.

    Raises:
        AceFinetuneError: for an invalid option.
    """

    def __init__(
        self,
        a: BaseRetriever,
        b: BaseRetriever,
        *,
        name: str = "comparison",
        seed: int | None = None,
        similarity_top_k: int | None = None,
        timeout: float | None = None,
        paused: bool = False,
        query_log: SearchLog | None = None,
        **options: Any,
    ) -> None:
        require_retriever(a, "A")
        require_retriever(b, "B")
        if similarity_top_k is not None and similarity_top_k < 1:
            raise AceFinetuneError(f"similarity_top_k is {similarity_top_k}; it must be 1 or more.")
        if timeout is not None and not timeout > 0:
            raise AceFinetuneError(f"The timeout is {timeout}; give seconds above 0, or None for no limit.")
        self._systems: dict[Team, BaseRetriever] = {"a": a, "b": b}
        # Tossed again for each query, also for the same text: a coin per text would always favour the same system.
        self._coin = Random(seed)
        self._top_k, self._timeout = similarity_top_k, timeout
        self.paused = paused
        self.comparison = Comparison(name, "interleaved", query_log)
        super().__init__(**options)

    @property
    def failures(self) -> Counter[str]:
        """Number of failures of "a" and of "b"."""
        return self.comparison.failures

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        start = time.perf_counter()
        if self.paused:
            return self._serve_a(query_bundle, self._systems["a"].retrieve(own_bundle(query_bundle)), start)
        searches: dict[Team, Future[list[NodeWithScore]]] = {
            team: in_thread(self._systems[team].retrieve, own_bundle(query_bundle)) for team in _TEAMS
        }
        found: dict[Team, Found] = {}
        for team, search in searches.items():
            left = None if self._timeout is None else max(0.0, self._timeout - (time.perf_counter() - start))
            try:
                found[team] = search.result(left)
            except Exception as error:
                found[team] = error
        return self._interleave(query_bundle, found, start)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        start = time.perf_counter()
        if self.paused:
            return self._serve_a(query_bundle, await self._systems["a"].aretrieve(own_bundle(query_bundle)), start)
        searches = (
            asyncio.wait_for(self._systems[team].aretrieve(own_bundle(query_bundle)), self._timeout) for team in _TEAMS
        )
        found = await asyncio.gather(*searches, return_exceptions=True)
        return self._interleave(query_bundle, dict(zip(_TEAMS, found, strict=True)), start)

    def _serve_a(self, query: QueryBundle, results: list[NodeWithScore], start: float) -> list[NodeWithScore]:
        seconds = time.perf_counter() - start
        unmarked: list[tuple[NodeWithScore, Team | None]] = [(result, None) for result in results[: self._top_k]]
        return self._serve(query, unmarked, seconds, served="a", paused=True)

    def _interleave(self, query: QueryBundle, found: dict[Team, Found], start: float) -> list[NodeWithScore]:
        rankings: dict[Team, dict[str, NodeWithScore]] = {}
        for team, results in found.items():
            if isinstance(results, BaseException):
                if not isinstance(results, Exception):
                    raise results  # such as a cancelled task
                self.comparison.count_failure(team, results)
            else:
                rankings[team] = {}
                for result in results:
                    rankings[team].setdefault(result.node.node_id, result)
        seconds = time.perf_counter() - start
        if len(rankings) < 2:
            return self._serve_other(query, found, rankings, seconds)
        top_k = self._top_k or max(map(len, rankings.values()))
        drafted = team_draft([*rankings["a"]], [*rankings["b"]], top_k=top_k, random=self._coin)
        results_of_both = {**rankings["b"], **rankings["a"]}  # A's for a hit without a team
        taken: list[tuple[NodeWithScore, Team | None]] = [
            ((results_of_both if hit.team is None else rankings[hit.team])[hit.id], hit.team) for hit in drafted
        ]
        return self._serve(query, taken, seconds)

    def _serve_other(
        self,
        query: QueryBundle,
        found: dict[Team, Found],
        rankings: dict[Team, dict[str, NodeWithScore]],
        seconds: float,
    ) -> list[NodeWithScore]:
        if not rankings:
            error, other = found["a"], found["b"]
            assert isinstance(error, BaseException)
            raise error from other if isinstance(other, BaseException) else None
        ((served, results),) = rankings.items()
        failed = "b" if served == "a" else "a"
        unmarked: list[tuple[NodeWithScore, Team | None]] = [(one, None) for one in [*results.values()][: self._top_k]]
        return self._serve(query, unmarked, seconds, served=served, failed=failed)

    def _serve(
        self, query: QueryBundle, results: list[tuple[NodeWithScore, Team | None]], seconds: float, **facts: Any
    ) -> list[NodeWithScore]:
        query_id = self.comparison.new_query_id()
        return self.comparison.serve(query, results, query_id=query_id, seconds=seconds, **facts)
