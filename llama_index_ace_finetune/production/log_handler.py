"""LogHandler: LlamaIndex event handler that writes searches, and the sources that responses cite, to a query log."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from llama_index.core.base.response.schema import Response
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from llama_index_ace_finetune.production.records import FeedbackRecord, RetrievalRecord, logged_hits
from llama_index_ace_finetune.retrievers.search_event import SearchEvent
from llama_index_ace_finetune.utils.fork import fork_safe_lock

if TYPE_CHECKING:
    from llama_index_ace_finetune.production.query_log import QueryLog

# Searches whose responses may still come.
_REMEMBERED: Final = 512
_MARKERS: Final = re.compile(r"\[([^\[\]]{1,200})\]")
_SOURCE_LABEL: Final = re.compile(r"\ASource \d+:\n")
CITATION: Final = "citation"
"""Source of the feedback that a response cites a memory."""


class LogHandler(BaseEventHandler):
    """Writes the searches of the retrievers of one log, and the use of the memories that a response cites.

    A source is cited if the response names its number or its id in brackets, as `CitationQueryEngine` asks the LLM to
    do: `[2]`, `[1, 3]`. Sources that a response does not cite are no use: every result is a source of some response.
    """

    _log: QueryLog = PrivateAttr()
    _recent: OrderedDict[str, tuple[str, Sequence[NodeWithScore]]] = PrivateAttr(default_factory=OrderedDict)
    _lock: Any = PrivateAttr(default_factory=fork_safe_lock)

    def __init__(self, log: QueryLog) -> None:
        super().__init__()
        self._log = log

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises the class."""
        return "LogHandler"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Write the event of a search or of a response; others are ignored."""
        if isinstance(event, SearchEvent):
            if event.query_id is not None and event.log_id == self._log.log_id:
                self._log_search(event, event.query_id)
        elif isinstance(event, SynthesizeEndEvent) and self._recent:
            self._log_citations(event)

    def _log_search(self, event: SearchEvent, query_id: str) -> None:
        self._log.write(
            RetrievalRecord(
                query_id=query_id,
                time=time.time(),
                query=event.query,
                hits=logged_hits(event.results),
                seconds=event.seconds,
                served_by=event.served_by,
                fingerprint=event.fingerprint,
                run=event.run,
                mode=event.mode,
                team=event.team,
                user=event.user,
                extra=event.extra,
            )
        )
        with self._lock:
            self._recent[event.query] = (query_id, event.results)
            self._recent.move_to_end(event.query)
            if len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)

    def _log_citations(self, event: SynthesizeEndEvent) -> None:
        query = event.query.query_str if isinstance(event.query, QueryBundle) else event.query
        with self._lock:
            query_id, results = self._recent.get(query, (None, ()))
        if query_id is None or not isinstance(event.response, Response) or not event.response.response:
            return
        for node_id in sorted(set(cited(event.response.response, event.response.source_nodes, results))):
            self._log.write(
                FeedbackRecord(
                    query_id=query_id, node_id=node_id, value=1.0, kind="use", source=CITATION, time=time.time()
                )
            )


def cited(response: str, sources: Sequence[NodeWithScore], results: Sequence[NodeWithScore]) -> Iterator[str]:
    """Yield the ids of the results that a response cites by the number of a source, from 1, or by its id."""
    by_id = {result.node.node_id: result for result in results}
    for found in _MARKERS.finditer(response):
        for name in (part.strip() for part in found[1].split(",")):
            if name in by_id:
                yield name
            elif name.isascii() and name.isdigit() and 1 <= int(name) <= len(sources):
                yield from _result_of(sources[int(name) - 1], results)


def _result_of(source: NodeWithScore, results: Sequence[NodeWithScore]) -> Iterator[str]:
    """Yield the id of the result that a source is, or is a chunk of: such chunks have new ids."""
    ids = [result.node.node_id for result in results]
    if source.node.node_id in ids:
        yield source.node.node_id
        return
    chunk = _words(_SOURCE_LABEL.sub("", source.node.get_content(MetadataMode.NONE)))
    holding = [result for result in results if chunk and chunk in _words(result.node.get_content(MetadataMode.NONE))]
    if len(holding) == 1:
        yield holding[0].node.node_id


def _words(text: str) -> str:
    return " ".join(text.split())
