"""Comparison: two systems in production, A and B, under opaque ids."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_ace_finetune.errors import AceFinetuneError, first_line, quoted
from llama_index_ace_finetune.ranking.team_draft import Team
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory
from llama_index_ace_finetune.retrievers.search_event import SearchEvent, SearchLog

Kind = Literal["interleaved", "split", "shadow"]
COMPARISON: Final = "comparison"
"""Key of a record's `extra` under which a query log has the comparison."""
logger = logging.getLogger(__name__)
dispatcher = get_dispatcher(__name__)


class ComparedResult(NodeWithScore):
    """A result of a retriever of another package in a comparison: the node and its score, with the team."""

    team: str | None = Field(default=None, description="Opaque id of the system that contributed it.")
    query_id: str | None = Field(default=None, description="Id of the query in the query log, for feedback.")

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises the class."""
        return "ComparedResult"


class Comparison:
    """A comparison of A, which serves today, and B, the candidate.

    The ids of both teams follow from the comparison's name, so that several processes use the same; they do not say
    which team is which. The query log has that, for `compare-live`.

    Args:
        name: of the comparison; another one is another comparison.
        kind: "interleaved", "split" by user, or "shadow".
        query_log: to write to; None logs nothing.
    """

    def __init__(self, name: str, kind: Kind, query_log: SearchLog | None) -> None:
        if not isinstance(name, str) or not name.strip():
            raise AceFinetuneError(f"The name of the comparison is {quoted(name)}; give a short text.")
        self.name, self.kind = name, kind
        self.ids: dict[Team, str] = {"a": _team_id(name, "a"), "b": _team_id(name, "b")}
        self.failures: Counter[str] = Counter()
        self._log = query_log
        self._lock = threading.Lock()
        if query_log is not None:
            query_log.attach()

    def count_failure(self, team: Team, error: BaseException) -> None:
        """Count and log that one system failed."""
        with self._lock:
            self.failures[team] += 1
        logger.warning("system %s of the comparison %r failed: %s", team.upper(), self.name, first_line(error))

    def new_query_id(self) -> str | None:
        """Return an id for a query; None if it is not logged."""
        return None if self._log is None else self._log.new_query_id()

    def facts(self, **further: Any) -> dict[str, Any]:
        """Return what a record of the log says about the comparison."""
        return {"name": self.name, "kind": self.kind, "a": self.ids["a"], "b": self.ids["b"], **further}

    def serve(
        self,
        query: QueryBundle,
        results: Sequence[tuple[NodeWithScore, Team | None]],
        *,
        query_id: str | None,
        seconds: float,
        served: Team | None = None,
        user: str | None = None,
        **facts: Any,
    ) -> list[NodeWithScore]:
        """Return results that carry the team and the query's id, and send them as an event, which is logged.

        Args:
            query: that was served.
            results: best first, each with the system that contributed it.
            query_id: of the query in the log, from `new_query_id`.
            seconds: that the search took.
            served: the system that served all results.
            user: opaque id of the user.
            facts: further values for the log, such as that a system failed.
        """
        log = self._log
        marked = [_marked(result, None if team is None else self.ids[team], query_id) for result, team in results]
        served_by = [one.served_by for one in marked if isinstance(one, RetrievedMemory)]
        event = SearchEvent(
            query_id=query_id,
            log_id=None if log is None else log.log_id,
            query=query.query_str,
            results=marked,
            seconds=seconds,
            # A fallback of either system has to be seen in the log.
            served_by="baseline" if "baseline" in served_by else next(iter(served_by), None),
            team=None if served is None else self.ids[served],
            user=user,
            extra={COMPARISON: self.facts(**facts)},
        )
        dispatcher.event(event)
        return marked


def own_bundle(query: QueryBundle) -> QueryBundle:
    """Return a copy for one system: LlamaIndex's retrievers write their model's vector into the bundle they get."""
    return QueryBundle(query.query_str, image_path=query.image_path, custom_embedding_strs=query.custom_embedding_strs)


def require_retriever(retriever: object, which: str) -> None:
    """Raise AceFinetuneError unless it is a LlamaIndex retriever."""
    if not isinstance(retriever, BaseRetriever):
        raise AceFinetuneError(f"The system {which} is a {type(retriever).__name__}; give a LlamaIndex retriever.")


def _team_id(name: str, team: Team) -> str:
    return hashlib.blake2b(f"{team}\0{name}".encode(errors="replace"), digest_size=6, person=b"ace-team").hexdigest()


def _marked(result: NodeWithScore, team: str | None, query_id: str | None) -> NodeWithScore:
    """Return a new result with the team and the id; nothing is added to the node, whose hash other retrievers use."""
    if isinstance(result, (RetrievedMemory, ComparedResult)):
        return result.model_copy(update={"team": team, "query_id": query_id})
    return ComparedResult(node=result.node, score=result.score, team=team, query_id=query_id)
