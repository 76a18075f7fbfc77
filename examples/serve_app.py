"""Serve the system that a run chose over HTTP, by several processes, with the memories on a Qdrant server.

    pip install fastapi uvicorn
    ace-finetune index --data my_suite.json --model my-run/model --url http://localhost:6333 --collection notes
    python examples/serve_app.py my-run --url http://localhost:6333 --collection notes --workers 4

    curl -X POST localhost:8000/search -H 'content-type: application/json' -d '{"query": "big uploads time out"}'

The processes keep nothing but the models: /health says that one lives, /ready that it can answer, and SIGTERM lets the
requests that are being answered finish. The API key of the server is read from QDRANT_API_KEY.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from llama_index_ace_finetune import AceFinetuneError, FineTunedHybridRetriever, ServerSettings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the workers, which uvicorn starts as separate processes and which read them from the environment.

    `timeout` is in seconds per search; every `refresh` seconds a worker takes in what other processes wrote.
    """

    run: Path
    url: str
    collection: str = "memories"
    timeout: float = 5.0
    refresh: float = 60.0

    @classmethod
    def from_environment(cls) -> Settings:
        """Read ACE_RUN, QDRANT_URL, ACE_COLLECTION, ACE_TIMEOUT and ACE_REFRESH."""
        given = os.environ
        return cls(
            run=Path(given["ACE_RUN"]),
            url=given["QDRANT_URL"],
            collection=given.get("ACE_COLLECTION", cls.collection),
            timeout=float(given.get("ACE_TIMEOUT", cls.timeout)),
            refresh=float(given.get("ACE_REFRESH", cls.refresh)),
        )


class Search(BaseModel):
    """A request."""

    query: str = Field(min_length=1, max_length=10_000)
    limit: int = Field(default=5, ge=1, le=100)


class Hit(BaseModel):
    """A memory that was found."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any]
    served_by: str


def make_app(settings: Settings | None = None) -> FastAPI:
    """Return the app of one worker."""
    settings = settings or Settings.from_environment()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        retriever = await run_in_threadpool(open_retriever, settings)
        gc.collect()
        gc.freeze()  # what is loaded stays; a full collection of it would stop the event loop for a third of a second
        refreshing = asyncio.create_task(keep_refreshed(retriever, settings.refresh))
        app.state.retriever = retriever
        yield
        app.state.retriever = None
        refreshing.cancel()
        retriever.close()

    app = FastAPI(title="memories", lifespan=lifespan)
    app.state.retriever = None

    def retriever_of(request: Request) -> FineTunedHybridRetriever:
        retriever: FineTunedHybridRetriever | None = request.app.state.retriever
        if retriever is None:
            raise HTTPException(503, "This worker is starting or stopping.")
        return retriever

    @app.get("/health")
    def health() -> dict[str, str]:
        """Say that the process lives; if it does not answer, restart it."""
        return {"status": "alive"}

    @app.get("/ready")
    def ready(request: Request) -> dict[str, object]:
        """Say whether the models are loaded and the server answers; if not, send requests to another worker."""
        retriever = retriever_of(request)
        try:
            memories = len(retriever.store)
        except AceFinetuneError as error:
            raise HTTPException(503, str(error)) from error
        return {"status": "ready", "memories": memories, "collection": retriever.store.collection}

    # Not `async`: it runs in a thread, so that the worker answers others meanwhile.
    @app.post("/search")
    def search(asked: Search, request: Request) -> list[Hit]:
        retriever = retriever_of(request)
        try:
            found = retriever.search(asked.query, similarity_top_k=asked.limit)
        except AceFinetuneError as error:
            raise HTTPException(503, str(error)) from error
        return [
            Hit(
                id=hit.node.node_id,
                score=hit.score or 0.0,
                text=hit.text,
                metadata=hit.metadata,
                served_by=hit.served_by,
            )
            for hit in found
        ]

    return app


def open_retriever(settings: Settings) -> FineTunedHybridRetriever:
    """Open the collection and load the models, by one search."""
    retriever = FineTunedHybridRetriever.from_run(
        settings.run,
        url=settings.url,
        collection=settings.collection,
        client_options=ServerSettings(timeout=settings.timeout),
        timeout=settings.timeout,
    )
    # The first search loads what the next ones use, and may take longer.
    retriever.search("warm up", similarity_top_k=1, mode="dense")
    return retriever


async def keep_refreshed(retriever: FineTunedHybridRetriever, seconds: float) -> None:
    """Take in what other processes wrote: the number of memories with each word, which BM25 counts."""
    while True:
        await asyncio.sleep(seconds)
        with contextlib.suppress(AceFinetuneError):  # /ready reports a server that does not answer
            await run_in_threadpool(retriever.refresh)


def main() -> None:
    """Start the workers."""
    parser = argparse.ArgumentParser(description="Serve a run over HTTP.")
    parser.add_argument("run", type=Path, help="folder that `ace-finetune run` made")
    parser.add_argument("--url", default="http://localhost:6333", help="Qdrant server")
    parser.add_argument("--collection", default=Settings.collection)
    parser.add_argument("--workers", type=int, default=2, help="processes; each loads the models")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    os.environ |= {"ACE_RUN": str(options.run), "QDRANT_URL": options.url, "ACE_COLLECTION": options.collection}
    uvicorn.run(
        "serve_app:make_app",
        factory=True,
        app_dir=str(Path(__file__).parent),
        host=options.host,
        port=options.port,
        workers=options.workers,
        timeout_graceful_shutdown=30,
        timeout_worker_healthcheck=60,  # a worker that loads models answers late
    )


if __name__ == "__main__":
    main()
