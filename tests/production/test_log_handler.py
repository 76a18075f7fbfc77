from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers.small_stores import node
from helpers.words_embedding import words_retriever
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine

from llama_index_ace_finetune.errors import AceFinetuneError, LogError
from llama_index_ace_finetune.production.log_handler import LogHandler
from llama_index_ace_finetune.production.log_settings import LogSettings
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory
from llama_index_ace_finetune.retrievers.search_event import SearchEvent

TEXTS = {
    "uploads": "retry big uploads that time out",
    "backups": "keep backups of the database",
    "mails": "send mails by a queue",
}


class Says(CustomLLM):
    """An LLM that always gives one answer."""

    answer: str

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **options: Any) -> CompletionResponse:
        return CompletionResponse(text=self.answer)

    def stream_complete(self, prompt: str, formatted: bool = False, **options: Any) -> Any:
        raise NotImplementedError


def retriever_of(log: QueryLog | None, **options: Any):
    return words_retriever([node(name, text) for name, text in TEXTS.items()], query_log=log, **options)


def uses(log: QueryLog) -> list[tuple[str, str, str]]:
    return [(one.node_id, one.kind, one.source) for one in log.feedback_records()]


def test_search_is_logged_with_ranks_and_what_served(log: QueryLog) -> None:
    found = retriever_of(log).retrieve("big uploads")
    [logged] = log.records()
    assert (logged.query, logged.served_by, logged.fingerprint, logged.mode) == (
        "big uploads", "finetuned", "words", "hybrid",
    )  # fmt: skip
    assert [hit.query_id for hit in found] == [logged.query_id] * 3
    assert [(hit.node_id, hit.score, hit.dense_rank, hit.sparse_rank, hit.dense_score) for hit in logged.hits] == [
        (hit.node.node_id, hit.score, hit.dense_rank, hit.sparse_rank, hit.dense_score) for hit in found
    ]
    assert (logged.hits[0].node_id, logged.hits[0].rank, logged.hits[0].sparse_rank) == ("uploads", 1, 1)
    assert 0 < logged.seconds < 5


async def test_every_way_of_searching_is_logged_once(log: QueryLog) -> None:
    retriever = retriever_of(log)
    retriever.retrieve("one")
    await retriever.aretrieve("two")
    retriever.search("three", mode="dense")
    await retriever.asearch("four", mode="sparse")
    retriever.retrieve_batch(["five", "six"])
    await retriever.aretrieve_batch(["seven"], similarity_top_k=1)
    logged = list(log.records())
    assert [one.query for one in logged] == ["one", "two", "three", "four", "five", "six", "seven"]
    assert len({one.query_id for one in logged}) == 7
    assert (logged[2].mode, logged[3].mode, len(logged[6].hits)) == ("dense", "sparse", 1)
    assert await asyncio.to_thread(log.flush)


def test_fallback_is_logged(log: QueryLog) -> None:
    retriever = retriever_of(log, embed_model=None)
    retriever.retrieve("big uploads")
    assert [(one.served_by, one.fingerprint) for one in log.records()] == [("baseline", "other words")]


def test_without_a_log_nothing_is_kept_but_the_event_is_sent() -> None:
    class Keep(BaseEventHandler):
        events: list[Any] = []  # noqa: RUF012 - a pydantic field

        def handle(self, event: Any, **kwargs: Any) -> None:
            if isinstance(event, SearchEvent):
                self.events.append(event)

    keep, dispatcher = Keep(), get_dispatcher()
    dispatcher.add_event_handler(keep)
    try:
        retriever = retriever_of(None)
        found = retriever.retrieve("big uploads")
    finally:
        dispatcher.event_handlers.remove(keep)
    assert [hit.query_id for hit in found] == [None] * 3
    assert "query_id" not in found[0].origin()
    [event] = keep.events
    assert (event.query_id, event.query, event.weights, event.rrf_k) == (None, "big uploads", (1.0, 1.0), 60)
    with pytest.raises(LogError, match="has no query log"):
        retriever.feedback("q", "uploads", 1)


def test_retrievers_with_different_logs(tmp_path: Path) -> None:
    with QueryLog.open(tmp_path / "a.db") as first, QueryLog.open(tmp_path / "b.db") as second:
        retriever_of(first).retrieve("for a")
        retriever_of(second).retrieve("for b")
        assert [one.query for one in first.records()] == ["for a"]
        assert [one.query for one in second.records()] == ["for b"]


def test_closed_log_stops_listening_and_queries_continue(tmp_path: Path) -> None:
    log = QueryLog.open(tmp_path / "log.db")
    retriever = retriever_of(log)
    log.close()
    assert retriever.retrieve("big uploads")[0].node.node_id == "uploads"
    listening = [one for one in get_dispatcher().event_handlers if isinstance(one, LogHandler)]
    assert not [handler for handler in listening if handler._log is log]


def test_query_that_the_sampling_leaves_out_has_no_id(tmp_path: Path) -> None:
    with QueryLog.open(tmp_path / "log.db", LogSettings(sample=1e-9)) as log:
        assert [hit.query_id for hit in retriever_of(log).retrieve("big uploads")] == [None] * 3
        assert log.counts() == (0, 0)


def test_feedback_of_a_retriever(log: QueryLog) -> None:
    retriever = retriever_of(log)
    best = retriever.retrieve("big uploads")[0]
    assert isinstance(best, RetrievedMemory)
    assert best.query_id is not None
    retriever.as_retriever(similarity_top_k=1).feedback(best.query_id, best.node.node_id, True, reason="works")
    [given] = log.feedback_records()
    assert (given.query_id, given.node_id, given.value, given.kind, given.source, given.reason) == (
        best.query_id, "uploads", 1.0, "judgement", "user", "works",
    )  # fmt: skip
    with pytest.raises(LogError, match="is not in the query log"):
        retriever.feedback("unknown", "uploads", 1)


def test_wrong_log_is_refused() -> None:
    with pytest.raises(AceFinetuneError, match=r"query_log is 'queries\.db'"):
        retriever_of("queries.db")


def test_citations_are_use(log: QueryLog) -> None:
    retriever = retriever_of(log)
    answers = CitationQueryEngine(retriever, llm=Says(answer="Retry them [1], or use a queue [1, 3]; see [9] and [x]."))
    response = answers.query("big uploads")
    first, _, third = (hit.node.node_id for hit in retriever.retrieve("big uploads"))
    assert "[1]" in str(response)
    assert sorted(uses(log)) == sorted([(first, "use", "citation"), (third, "use", "citation")])


async def test_citations_by_id_and_asynchronously(log: QueryLog) -> None:
    retriever = retriever_of(log)
    engine = RetrieverQueryEngine.from_args(retriever, llm=Says(answer="Keep copies [backups]."))
    await engine.aquery("copies")
    assert uses(log) == [("backups", "use", "citation")]


def test_sources_that_are_not_cited_are_no_use(log: QueryLog) -> None:
    RetrieverQueryEngine.from_args(retriever_of(log), llm=Says(answer="Retry them.")).query("big uploads")
    assert log.counts() == (1, 0)


def test_log_that_raises_does_not_fail_a_query(log: QueryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(record: object) -> bool:
        raise OSError("no disk")

    monkeypatch.setattr(log, "write", fail)
    assert retriever_of(log).retrieve("big uploads")[0].node.node_id == "uploads"
