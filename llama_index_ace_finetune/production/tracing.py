"""trace_searches: what a search served, as attributes of the current OpenTelemetry span."""

from __future__ import annotations

import json
from typing import Any, Final

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]
from llama_index.core.schema import MetadataMode, NodeWithScore

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.retrievers.search_event import SearchEvent

_PREFIX: Final = "ace_finetune"
_LEGS: Final = ("dense_rank", "dense_score", "sparse_rank", "sparse_score")


class TracingHandler(BaseEventHandler):
    """Sets the attributes of each search on the span that is current in OpenTelemetry.

    By OpenTelemetry's conventions for generative AI (`gen_ai.retrieval.documents`: ids and scores), by OpenInference's
    for retrievers (`retrieval.documents.N.document.id`), and `ace_finetune.*`: what served, fingerprint, run, fusion,
    weights, ranks and scores of the legs, team, query id in the query log.
    """

    _texts: bool = PrivateAttr(default=False)
    _trace: Any = PrivateAttr(default=None)

    def __init__(self, *, texts: bool) -> None:
        super().__init__()
        try:
            from opentelemetry import trace
        except ImportError as error:
            raise AceFinetuneError(
                'Tracing needs OpenTelemetry; run `pip install "llama-index-ace-finetune[tracing]"`.'
            ) from error
        self._texts, self._trace = texts, trace

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises the class."""
        return "TracingHandler"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Set the attributes of a search; other events are ignored."""
        if isinstance(event, SearchEvent):
            span = self._trace.get_current_span()
            if span.is_recording():
                span.set_attributes(search_attributes(event, texts=self._texts))


def trace_searches(*, texts: bool = False) -> TracingHandler:
    """Set what each search served as attributes of the current OpenTelemetry span, from now on.

    Spans come from an instrumentation, such as `llama-index-observability-otel` or OpenInference's for LlamaIndex.

    Args:
        texts: also the texts of the query and of the memories, which may be personal data.

    Returns:
        the handler; remove it from the event handlers of LlamaIndex's dispatcher to stop.

    Raises:
        AceFinetuneError: if OpenTelemetry is not installed.
    """
    handler = TracingHandler(texts=texts)
    get_dispatcher().add_event_handler(handler)
    return handler


def search_attributes(event: SearchEvent, *, texts: bool = False) -> dict[str, Any]:
    """Return the attributes of a search; those without a value are left out."""
    documents = [{"id": hit.node.node_id, "score": hit.score} for hit in event.results]
    values: dict[str, Any] = {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.request.top_k": len(event.results),
        "gen_ai.retrieval.documents": json.dumps(documents),
        "openinference.span.kind": "RETRIEVER",
        **_own_attributes(event),
    }
    for number, hit in enumerate(event.results):
        document = f"retrieval.documents.{number}.document"
        values[f"{document}.id"], values[f"{document}.score"] = hit.node.node_id, hit.score
        if legs := _legs(hit):
            values[f"{document}.metadata"] = json.dumps(legs)
    if texts:
        values["gen_ai.retrieval.query.text"] = values["input.value"] = event.query
        for number, hit in enumerate(event.results):
            content = hit.node.get_content(MetadataMode.NONE)
            values[f"retrieval.documents.{number}.document.content"] = content
    return {name: value for name, value in values.items() if value is not None}


def _own_attributes(event: SearchEvent) -> dict[str, Any]:
    names = ("served_by", "fingerprint", "run", "mode", "team", "query_id", "fusion", "rrf_k")
    values: dict[str, Any] = {f"{_PREFIX}.{name}": getattr(event, name) for name in names}
    if event.weights is not None:
        values[f"{_PREFIX}.weights"] = list(event.weights)
    if event.leg_weights is not None:
        values[f"{_PREFIX}.leg_weights"] = json.dumps(event.leg_weights)
    for name in ("dense_rank", "sparse_rank"):  # 0: the leg did not find it
        if any(hasattr(hit, name) for hit in event.results):
            values[f"{_PREFIX}.{name}s"] = [getattr(hit, name, None) or 0 for hit in event.results]
    return values


def _legs(hit: NodeWithScore) -> dict[str, Any]:
    found = {name: getattr(hit, name, None) for name in (*_LEGS, "team")}
    return {name: value for name, value in found.items() if value is not None}
