from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.mining.collection_source import CollectionSource
from llama_index_ace_finetune.mining.sources import UNKNOWN
from llama_index_ace_finetune.stores.qdrant.live_collection import LiveCollection

POINTS: list[tuple[int, list[float], dict[str, Any]]] = [
    (1, [1.0, 0.0], {"content": "Retry with a growing delay", "category": "ERRORS", "memory_id": 3215809140}),
    (2, [0.8, 0.6], {"lesson": "Close the file first"}),
    (3, [0.0, 1.0], {"text": "Pin the base image", "bullet_id": "strategy-00001"}),
    (4, [0.9, 0.1], {"note": "no text here"}),
    (5, [0.7, 0.7], {"content": "   "}),
]


class Endpoint(HTTPServer):
    """An embedding endpoint that answers with `status` and `body` and records the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.body: bytes = json.dumps({"data": [{"embedding": [1.0, 0.0]}]}).encode()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, json.loads(content)))
        self.server.keys.append(self.headers.get("api-key"))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def client_with(collection: str, *, names: tuple[str, ...] = ("other", "dense")) -> QdrantClient:
    """An in-memory collection; every named vector but the last of `names` has its coordinates swapped."""
    client = QdrantClient(":memory:")
    parameters = models.VectorParams(size=2, distance=models.Distance.COSINE)
    client.create_collection(collection, vectors_config=dict.fromkeys(names, parameters) if names else parameters)
    client.upsert(
        collection,
        [
            models.PointStruct(
                id=number,
                vector={name: vector if name == names[-1] else vector[::-1] for name in names} if names else vector,
                payload=payload,
            )
            for number, vector, payload in POINTS
        ],
    )
    return client


def live(client: QdrantClient, url: str | None = None, collection: str = "memories") -> LiveCollection:
    return LiveCollection("http://db", collection, embedding_url=url, embedding_model="a-model", client=client)


def test_memories_are_points_with_text_and_keep_their_ids() -> None:
    memories = live(client_with("memories")).memories()
    assert {memory.id: memory.text for memory in memories} == {
        "3215809140": "Retry with a growing delay",
        "2": "Close the file first",
        "strategy-00001": "Pin the base image",
    }
    first = next(memory for memory in memories if memory.id == "3215809140")
    assert first.metadata["source_id"] == 1
    assert first.metadata["category"] == "ERRORS"


def test_collection_without_texts_is_refused(endpoint: Endpoint) -> None:
    client = QdrantClient(":memory:")
    client.create_collection("c", models.VectorParams(size=2, distance=models.Distance.COSINE))
    collection = LiveCollection("http://db", "c", embedding_url=endpoint.url, embedding_model="a-model", client=client)
    assert collection.memories() == []
    client.upsert("c", [models.PointStruct(id=n, vector=[1.0, 0.0], payload={"note": "x"}) for n in range(3)])
    with pytest.raises(StoreError, match="None of the 3 points of the collection 'c' has a text"):
        collection.memories()


def test_more_points_than_one_scroll_page() -> None:
    client = QdrantClient(":memory:")
    client.create_collection("many", vectors_config=models.VectorParams(size=1, distance=models.Distance.DOT))
    client.upsert(
        "many",
        [
            models.PointStruct(id=number, vector=[1.0], payload={"content": f"memory {number}"})
            for number in range(1203)
        ],
    )
    memories = live(client, collection="many").memories()
    assert {memory.id for memory in memories} == {str(number) for number in range(1203)}
    assert len(memories) == 1203


def test_search_embeds_at_the_endpoint_and_ranks_by_dense_vectors(endpoint: Endpoint) -> None:
    hits = live(client_with("memories"), endpoint.url + "/").search("it fails", 4)
    assert [text for text, _ in hits] == ["Retry with a growing delay", "Close the file first", "   "]
    assert hits[0][1] == pytest.approx(1.0)
    assert hits[1][1] == pytest.approx(0.8)
    assert endpoint.requests == [("/v1/embeddings", {"model": "a-model", "input": "it fails"})]


@pytest.mark.parametrize("names", [(), ("mine",), ("finetuned",)])
def test_other_names_of_the_dense_vector(endpoint: Endpoint, names: tuple[str, ...]) -> None:
    hits = live(client_with("memories", names=names), endpoint.url).search("it fails", 1)
    assert hits == [("Retry with a growing delay", pytest.approx(1.0))]


def test_long_queries_are_truncated(endpoint: Endpoint) -> None:
    live(client_with("memories"), endpoint.url).search("x" * 9000, 1)
    assert len(endpoint.requests[0][1]["input"]) == 8000


def test_without_an_endpoint_there_are_no_hits() -> None:
    assert live(client_with("memories")).search("it fails", 3) == []


def test_source_returns_rows_of_the_corpus(endpoint: Endpoint) -> None:
    corpus = ["Pin the base image", "CLOSE the  file first", "only in the dataset"]
    source = CollectionSource.over(live(client_with("memories"), endpoint.url), ["unused", "it fails"], corpus)
    rows, scores = source.search(np.array([1]), 5)
    assert source.name == "collection"
    # The best point is not in the corpus; the others keep their ranks.
    assert rows.tolist() == [[UNKNOWN, UNKNOWN, 1, UNKNOWN, 0]]
    assert scores[0].tolist() == pytest.approx([1, 0.994, 0.8, 0.707, 0], abs=1e-3)
    assert endpoint.requests[0][1]["input"] == "it fails"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (404, b"not found"),
        (200, b"not json"),
        (200, b"{}"),
        (200, b"[]"),
        (200, b'{"data": []}'),
        (200, b'{"data": [{}]}'),
        (200, b'{"data": [{"embedding": null}]}'),
        (200, b'{"data": [{"embedding": "AACAPw=="}]}'),
        (200, b'{"data": [{"embedding": ["a", 1]}]}'),
    ],
)
def test_endpoint_response_without_a_vector_is_refused(endpoint: Endpoint, status: int, body: bytes) -> None:
    endpoint.status, endpoint.body = status, body
    collection = live(client_with("memories"), endpoint.url)
    with pytest.raises(StoreError, match=r"embedding endpoint 'http://127\.0\.0\.1:\d+/v1/embeddings' gave no vector"):
        collection.search("it fails", 1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "no scheme", "http://[", "http://127.0.0.1:99999"])
def test_unreachable_endpoint_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="gave no vector"):
        live(client_with("memories"), url).search("it fails", 1)


def test_vectors_of_another_dimension_are_refused(endpoint: Endpoint) -> None:
    endpoint.body = json.dumps({"data": [{"embedding": [1.0, 0.0, 0.0]}]}).encode()
    with pytest.raises(StoreError, match="'memories' at 'http://db' cannot be read"):
        live(client_with("memories"), endpoint.url).search("it fails", 1)


def test_missing_collection_is_refused(endpoint: Endpoint) -> None:
    collection = live(client_with("memories"), endpoint.url, collection="others")
    with pytest.raises(StoreError, match="'others' at 'http://db' cannot be read"):
        collection.memories()
    with pytest.raises(StoreError, match="'others' at 'http://db' cannot be read"):
        collection.search("it fails", 1)


def test_unreachable_server_is_refused() -> None:
    collection = LiveCollection("http://127.0.0.1:9", "memories")
    with pytest.raises(StoreError) as caught:
        collection.memories()
    collection.close()
    message = str(caught.value)
    assert "'memories' at 'http://127.0.0.1:9' cannot be read" in message
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize("key", ["a-secret", None])
def test_api_key_comes_from_the_environment(
    key: str | None, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", key or "")
    endpoint.body = json.dumps({"result": {"points": [], "next_page_offset": None}, "status": "ok", "time": 0}).encode()
    collection = LiveCollection(endpoint.url, "memories")
    assert collection.memories() == []
    collection.close()
    assert endpoint.keys == [key]


def llama_index_collection(**options: Any) -> tuple[QdrantClient, list[TextNode]]:
    """A collection written by LlamaIndex's QdrantVectorStore: the text of its points is inside the node."""
    client = QdrantClient(":memory:")
    store = QdrantVectorStore(client=client, collection_name="memories", **options)
    nodes = [
        TextNode(text=text, metadata={"topic": "work"}, embedding=vector, excluded_embed_metadata_keys=excluded)
        for text, vector, excluded in (
            ("Retry with a growing delay", [1.0, 0.0], ["topic"]),
            ("Pin the base image", [0.0, 1.0], []),
            ("", [0.5, 0.5], ["topic"]),
        )
    ]
    store.add(nodes)
    return client, nodes


def test_memories_of_llama_index_nodes_have_the_embedded_text() -> None:
    client, nodes = llama_index_collection()
    memories = live(client).memories()
    assert {(memory.id, memory.text) for memory in memories} == {
        (nodes[0].node_id, "Retry with a growing delay"),
        (nodes[1].node_id, "topic: work\n\nPin the base image"),
    }
    assert all(memory.metadata == {"source_id": memory.id, "topic": "work"} for memory in memories)


def one_sparse_term(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
    return [[1] for _ in texts], [[1.0] for _ in texts]


@pytest.mark.parametrize(
    "options", [{}, {"enable_hybrid": True, "sparse_doc_fn": one_sparse_term, "sparse_query_fn": one_sparse_term}]
)
def test_source_finds_rows_of_llama_index_nodes(endpoint: Endpoint, options: dict[str, Any]) -> None:
    client, _ = llama_index_collection(**options)
    collection = live(client, endpoint.url)
    corpus = [memory.text for memory in collection.memories()]
    rows, scores = CollectionSource.over(collection, ["it fails"], corpus).search(np.array([0]), 3)
    assert corpus[rows[0][0]] == "Retry with a growing delay"
    assert UNKNOWN in rows[0].tolist()  # the node without text is not a memory
    assert scores[0][0] == pytest.approx(1.0)
