"""One deadline for a whole query: a server that answers slowly, without end, or too little."""

from __future__ import annotations

import asyncio
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.small_stores import node
from helpers.words_embedding import DIMENSION, WordsEmbedding, words_retriever

from llama_index_ace_finetune.errors import ModelError, StoreError
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector
from llama_index_ace_finetune.stores.qdrant.connection import connect
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25

NODES = [node("a", "red apples"), node("b", "green pears"), node("c", "blue paint")]
TIMEOUT, SLACK = 0.2, 0.8


class Server:
    """A reachable server that sends one byte now and then as long as `dripping` is set."""

    def __init__(self) -> None:
        self.dripping = threading.Event()
        self.dripping.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.end_headers()
                while outer.dripping.wait(0):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.02)

            do_GET = do_POST = answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.dripping.clear()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def over(server: Server, **options: Any) -> FineTunedHybridRetriever:
    """A retriever over a collection of the server."""
    client, location = connect(url=server.url, client_options={"check_compatibility": False, "timeout": 60})
    models = {FINETUNED: WordsEmbedding(), BASELINE: WordsEmbedding(seed=1, fingerprint="other words")}
    named_vectors = {name: NamedVector(DIMENSION, model.fingerprint) for name, model in models.items()}
    store = MemoryStore(
        client, "memories", named_vectors, location, sparse=SparseBM25.of(["red apples", "green pears"])
    )
    given = {"embed_model": models[FINETUNED], "baseline_model": models[BASELINE], "timeout": TIMEOUT, **options}
    return FineTunedHybridRetriever(store, **given)


@pytest.mark.parametrize(
    "options",
    [{"mode": "dense"}, {"mode": "sparse"}, {"mode": "hybrid"}, {"sparse": "server"}, {"fallback": "off"}],
    ids=lambda options: next(iter(options.values())) + next(iter(options)),
)
@pytest.mark.parametrize("how", ["sync", "async", "batch"])
def test_server_that_never_ends_its_answer(server: Server, options: dict[str, Any], how: str) -> None:
    retriever = over(server, **options)
    began = time.monotonic()
    search: Callable[[], object] = {
        "sync": lambda: retriever.retrieve("red apples"),
        "async": lambda: asyncio.run(retriever.aretrieve("red apples")),
        "batch": lambda: retriever.retrieve_batch(["red apples", "green pears"]),
    }[how]
    with pytest.raises(StoreError, match=r"did not answer within the 0\.2 seconds"):
        search()
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert retriever.served == {}


async def test_many_searches_at_once_all_end_in_time(server: Server) -> None:
    retriever = over(server, mode="dense")
    began = time.monotonic()
    ended = await asyncio.gather(*(retriever.aretrieve(f"red {n}") for n in range(40)), return_exceptions=True)
    # On a slow machine some wait until their time is over, and their query is not embedded.
    unembedded = [error for error in ended if isinstance(error, ModelError)]
    assert {type(error) for error in ended if error not in unembedded} == {StoreError}
    assert all("Neither the tuned model nor the baseline can serve" in str(error) for error in unembedded)
    assert {reason for _, reason in retriever.fallbacks} <= {"timeout"}
    assert time.monotonic() - began < TIMEOUT + 3 * SLACK


def test_slow_embedding_and_slow_server_share_the_deadline(server: Server) -> None:
    retriever = over(server)
    for model in retriever._search.chain.models:
        model.break_with(delay=5)  # type: ignore[union-attr]
    began = time.monotonic()
    with pytest.raises(StoreError, match="did not answer"):
        retriever.retrieve("red apples")
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert retriever.fallbacks == {("finetuned", "timeout"): 1, ("baseline", "timeout"): 1}


def test_slow_models_leave_time_for_bm25_in_this_process() -> None:
    retriever = words_retriever(NODES, timeout=TIMEOUT)
    for model in retriever._search.chain.models:
        model.break_with(delay=5)  # type: ignore[union-attr]
    began = time.monotonic()
    assert [hit.served_by for hit in retriever.retrieve("red apples")] == ["lexical"]
    assert time.monotonic() - began < TIMEOUT + SLACK


def test_too_few_answers_of_a_batch_are_an_error(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    retriever = over(server, mode="dense")
    monkeypatch.setattr(retriever.store.client, "query_batch_points", lambda *_, **__: [])
    with pytest.raises(StoreError, match="gave 0 answers to 2 searches"):
        retriever.retrieve_batch(["red apples", "green pears"])
    assert retriever.served == {}


def test_failed_queries_are_not_counted_as_served(monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = words_retriever(NODES)
    retriever.retrieve("red apples")

    def fail(_: object) -> None:
        raise StoreError("The payload is gone.")

    monkeypatch.setattr(retriever.store, "get", fail)
    with pytest.raises(StoreError):
        retriever.retrieve("red apples")
    assert retriever.served == {"finetuned": 1}


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
async def test_cancellation_is_passed_on(mode: str, server: Server) -> None:
    retriever = over(server, mode=mode, timeout=20)
    task = asyncio.ensure_future(retriever.aretrieve("red apples"))
    await asyncio.sleep(0.1)
    task.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < SLACK
    assert (retriever.served, retriever.fallbacks) == ({}, {})


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(3)])
@pytest.mark.parametrize("timeout", [None, 5.0])
def test_interruptions_do_not_fall_back(error: BaseException, timeout: float | None) -> None:
    retriever = words_retriever(NODES, timeout=timeout)
    retriever._search.chain.models[0].break_with(error)  # type: ignore[union-attr]
    with pytest.raises(type(error)):
        retriever.retrieve("red apples")
    assert (retriever.served, retriever.fallbacks) == ({}, {})
