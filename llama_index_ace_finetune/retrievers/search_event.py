"""SearchEvent: what a retriever served, sent to LlamaIndex's event handlers, such as a query log's."""

from __future__ import annotations

from typing import Any, Protocol

from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]
from llama_index.core.schema import NodeWithScore

from llama_index_ace_finetune.ranking.fusion_settings import FusionKind, Leg


class SearchEvent(BaseEvent):
    """A search that was answered.

    query_id: of the query log; None if it is not logged.
    log_id: of the query log.
    query: text.
    results: best first.
    seconds: that the search took; in a batch, the seconds of the batch.
    mode: "hybrid", "dense" or "sparse".
    served_by: see `ServedBy`; None without results.
    fingerprint: of the model whose vectors were searched; None if BM25 served.
    run: folder of the run that is served; None for other models.
    weights: of the dense and the BM25 leg.
    fusion: "rrf" or "convex"; None for retrievers of other packages.
    leg_weights: of every leg that is fused, by its name.
    rrf_k: constant of RRF; None with another fusion.
    team: opaque id of the system that served, in a comparison of two.
    user: opaque id of the user.
    extra: further JSON values for the log.
    """

    query_id: str | None
    log_id: str | None
    query: str
    results: list[NodeWithScore]
    seconds: float
    mode: str | None = None
    served_by: str | None = None
    fingerprint: str | None = None
    run: str | None = None
    weights: tuple[float, float] | None = None
    fusion: FusionKind | None = None
    leg_weights: dict[Leg, float] | None = None
    rrf_k: int | None = None
    team: str | None = None
    user: str | None = None
    extra: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises the class."""
        return "SearchEvent"


class SearchLog(Protocol):
    """What a retriever needs of a query log: `production.query_log.QueryLog` is one."""

    log_id: str

    def new_query_id(self) -> str | None:
        """Return an id for a query that is to be logged; None for one that is left out."""

    def attach(self) -> None:
        """Receive the events of searches from now on."""

    def feedback(self, query_id: str, node_id: str, value: float, *, reason: str | None = None) -> Any:
        """Record whether a memory is relevant to a served query."""
