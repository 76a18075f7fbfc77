"""FallbackChain: causes of a fallback, how it is reported, and recovery."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from helpers.small_stores import node
from helpers.words_embedding import WordsEmbedding, tuned_and_base, words_retriever, words_store
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler

from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, StoreError
from llama_index_ace_finetune.retrievers.fallback import FallbackEvent
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever

NODES = [node("a", "red apples"), node("b", "green pears"), node("c", "blue paint")]


class Collector(BaseEventHandler):
    events: list[Any] = []  # noqa: RUF012

    def handle(self, event: Any, **_: Any) -> None:
        if isinstance(event, FallbackEvent):
            self.events.append((event.failed, event.reason))


@pytest.fixture
def events():
    collector, root = Collector(events=[]), get_dispatcher()
    root.add_event_handler(collector)
    yield collector.events
    root.event_handlers.remove(collector)


def served(hits: list[Any]) -> set[str]:
    return {hit.served_by for hit in hits}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"failure": RuntimeError("out of memory")}, "error"),
        ({"failure": ModelError("weights are gone")}, "error"),
        ({"delay": 0.5}, "timeout"),
        ({"length": 8}, "mismatch"),
    ],
)
class TestTriggers:
    def test_baseline_serves_and_the_fallback_is_logged(self, damage: dict, reason: str, events: list, caplog) -> None:
        retriever = words_retriever(NODES, timeout=0.1)
        _models(retriever)[0].break_with(**damage)
        hits = retriever.retrieve("red apples")
        assert hits[0].node.node_id == "a"
        assert served(hits) == {"baseline"}
        assert retriever.served == {"baseline": 1}
        assert retriever.fallbacks == {("finetuned", reason): 1}
        assert events == [("finetuned", reason)]
        assert [r.levelname for r in caplog.records if "finetuned leg failed" in r.getMessage()] == ["WARNING"]

    async def test_only_bm25_serves_if_both_models_fail(self, damage: dict, reason: str, events: list) -> None:
        retriever = words_retriever(NODES, timeout=0.1)
        for model in _models(retriever):
            model.break_with(**damage)
        hits = await retriever.aretrieve("red apples")
        assert [hit.node.node_id for hit in hits] == ["a"]
        assert served(hits) == {"lexical"}
        assert hits[0].score == 1
        assert events == [("finetuned", reason), ("baseline", reason)]
        with pytest.raises(ModelError, match="Neither the tuned model nor"):
            retriever.search("red apples", mode="dense")

    async def test_fallback_off_raises(self, damage: dict, reason: str, events: list) -> None:
        retriever = words_retriever(NODES, timeout=0.1, fallback="off")
        _models(retriever)[0].break_with(**damage)
        for _ in range(5):  # no circuit breaker hides the error
            with pytest.raises((RuntimeError, ModelError, StoreError), match=r"memory|gone|longer than|dimensions"):
                await retriever.aretrieve("red apples")
        assert (retriever.served, retriever.fallbacks, events) == ({}, {}, [])


class TestBreaker:
    def test_failing_model_is_skipped_and_tried_again_after_the_cool_down(self, caplog) -> None:
        retriever = words_retriever(NODES, breaker_failures=2, breaker_pause=0.2)
        tuned, _ = _models(retriever)
        tuned.break_with(RuntimeError("dead"))
        caplog.set_level(logging.WARNING)
        for _ in range(6):
            assert served(retriever.retrieve("red apples")) == {"baseline"}
        assert tuned.calls == 2
        assert retriever.fallbacks == {("finetuned", "error"): 2, ("finetuned", "paused"): 4}
        assert len(caplog.records) == 2  # the cool-down does not fill the log
        tuned.break_with(None)
        assert served(retriever.retrieve("red apples")) == {"baseline"}
        asyncio.run(asyncio.sleep(0.25))
        assert served(retriever.retrieve("red apples")) == {"finetuned"}
        assert served(retriever.retrieve("red apples")) == {"finetuned"}

    def test_occasional_failures_do_not_open_the_breaker(self) -> None:
        retriever = words_retriever(NODES, breaker_failures=2, breaker_pause=60)
        tuned, _ = _models(retriever)
        for failure in (RuntimeError("x"), None) * 4:
            tuned.break_with(failure)
            assert served(retriever.retrieve("red apples")) == {"baseline" if failure else "finetuned"}


class TestMissingModels:
    def test_no_model_available(self, events: list) -> None:
        with words_store(NODES) as store:
            retriever = FineTunedHybridRetriever(store, embed_model=None)
            assert served(retriever.retrieve("red apples")) == {"lexical"}
            assert events == [("finetuned", "missing"), ("baseline", "missing")]

    def test_model_of_other_vectors(self, events: list, caplog) -> None:
        tuned, base = tuned_and_base()
        with words_store(NODES) as store:
            retriever = FineTunedHybridRetriever(store, embed_model=base, baseline_model=base)
            assert "not the one that made the finetuned vectors" in caplog.text
            assert served(retriever.retrieve("red apples")) == {"baseline"}
            assert events == [("finetuned", "mismatch")]
            with pytest.raises(StoreError, match="not the one that made the finetuned vectors"):
                FineTunedHybridRetriever(store, embed_model=base, baseline_model=tuned, fallback="off")


class TestStoreFails:
    """No fallback hides a store that fails."""

    @pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
    async def test_it_is_an_error(self, mode: str) -> None:
        retriever = words_retriever(NODES, mode=mode)
        retriever.retrieve("red apples")
        retriever.close()
        with pytest.raises(StoreError, match="cannot be used"):
            retriever.retrieve("red apples")
        with pytest.raises(StoreError, match="cannot be used"):
            await retriever.aretrieve("red apples")
        assert retriever.fallbacks == {}


def test_model_tuned_only_on_the_query_side_serves_the_index_of_its_base() -> None:
    class TunedQueries(WordsEmbedding):
        document_fingerprint: str = "words"

    tuned = TunedQueries(fingerprint="words, queries tuned")
    assert served(words_retriever(NODES, embed_model=tuned).retrieve("red apples")) == {"finetuned"}
    other = TunedQueries(fingerprint="words", document_fingerprint="others")
    assert served(words_retriever(NODES, embed_model=other).retrieve("red apples")) == {"baseline"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"breaker_failures": 0}, "0 failures"),
        ({"breaker_pause": -1}, "-1 seconds"),
        ({"sparse": "both"}, "in_process or server"),
        ({"dense_top_k": 0}, "dense_top_k is 0"),
        ({"sparse_top_k": -1}, "sparse_top_k is -1"),
        ({"weights": (float("nan"), 1)}, "leg weights"),
        ({"weights": (float("inf"), 1)}, "leg weights"),
    ],
)
def test_bad_settings(options: dict, message: str) -> None:
    with pytest.raises(AceFinetuneError, match=message):
        words_retriever(NODES, **options)


def _models(retriever: FineTunedHybridRetriever) -> list[WordsEmbedding]:
    return retriever._search.chain.models  # type: ignore[return-value]
