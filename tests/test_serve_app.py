"""The serving process of the examples: health, readiness, answers, and a graceful stop of several workers."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from helpers.serving_files import BASE, small_memories, write_run, write_tuned_model

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.stores.build_index import build_index, memory_nodes

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "serve_app.py"
pytestmark = pytest.mark.slow  # each worker loads two models


@pytest.fixture(scope="module")
def serve_app() -> ModuleType:
    pytest.importorskip("fastapi")
    spec = importlib.util.spec_from_file_location("serve_app", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["serve_app"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    return write_run(folder / "run", write_tuned_model(folder / "tuned"))


@pytest.fixture(scope="module")
def collection(run: Path, qdrant_url: str) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex}"
    with build_index(
        memory_nodes(small_memories()),
        finetuned=Encoder.load(run / "model"),
        baseline=Encoder.load(BASE),
        url=qdrant_url,
        collection=name,
        server_bm25=True,
    ) as store:
        yield name
        store.client.delete_collection(name)


def test_answers_are_those_of_the_run(serve_app: ModuleType, run: Path, collection: str, qdrant_url: str) -> None:
    from starlette.testclient import TestClient

    settings = serve_app.Settings(run=run, url=qdrant_url, collection=collection, timeout=60.0)
    app = serve_app.make_app(settings)
    assert TestClient(app).get("/health").json() == {"status": "alive"}
    assert TestClient(app).get("/ready").status_code == 503  # not started
    with TestClient(app) as client:
        assert client.get("/ready").json() == {"status": "ready", "memories": 12, "collection": collection}
        found = client.post("/search", json={"query": "big uploads time out", "limit": 3}).json()
        direct = FineTunedHybridRetriever.from_run(run, similarity_top_k=3)
        expected = direct.retrieve("big uploads time out")
        direct.close()
        assert [hit["id"] for hit in found] == [hit.node.node_id for hit in expected]
        assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)
        assert found[0]["served_by"] == "finetuned"
        for wrong in ({}, {"query": ""}, {"query": "x", "limit": 0}):
            assert client.post("/search", json=wrong).status_code == 422
        store = app.state.retriever.store
        store.close()  # as if the server were gone
        gone = client.get("/ready"), client.post("/search", json={"query": "x"})
        assert [reply.status_code for reply in gone] == [503, 503]
        assert "cannot be used" in gone[1].json()["detail"]
        assert client.get("/health").status_code == 200
    assert app.state.retriever is None


def test_workers_stop_gracefully(run: Path, collection: str, qdrant_url: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(EXAMPLE), str(run), "--url", qdrant_url, "--collection", collection,
               "--workers", "2", "--port", str(port)]  # fmt: skip
    path = os.pathsep.join([str(EXAMPLE.parent.parent), os.environ.get("PYTHONPATH", "")])
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path, "ACE_TIMEOUT": "60"}, stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            _wait_until_ready(client, server, tmp_path / "log", workers=2)
            replies: list[httpx.Response] = []

            def ask() -> None:
                with httpx.Client(base_url=client.base_url, timeout=120) as own:
                    replies.append(own.post("/search", json={"query": "how often do we change the signing keys?"}))

            asking = [threading.Thread(target=ask) for _ in range(8)]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join()
            assert {tuple(hit["id"] for hit in reply.json()) for reply in replies} == {
                tuple(hit["id"] for hit in replies[0].json())
            }
        server.send_signal(signal.SIGTERM)
        assert server.wait(300) in (0, -signal.SIGTERM)
    finally:
        server.kill()
    said = (tmp_path / "log").read_text()
    assert said.count("Application shutdown complete") == 2
    assert "Traceback" not in said


def _wait_until_ready(client: httpx.Client, server: subprocess.Popen[bytes], log: Path, *, workers: int) -> None:
    """Wait until all workers have started, and one of them says that it is ready."""
    for _ in range(1200):
        assert server.poll() is None, log.read_text()
        if log.read_text().count("Application startup complete") == workers:
            assert client.get("/ready").status_code == 200
            return
        time.sleep(0.5)
    raise AssertionError(f"no {workers} workers became ready: {log.read_text()}")
