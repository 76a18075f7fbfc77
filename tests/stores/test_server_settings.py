"""Settings of a server and its collections: every request is one of qdrant-client's models and has the settings."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from helpers.small_stores import NAMED_VECTORS, node, unit_rows, vectors
from pydantic import TypeAdapter
from qdrant_client import models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.pipeline.index_on_server import index_on_server
from llama_index_ace_finetune.stores.adopt import _write as write_vectors
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant import server_client
from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionSettings, read_settings
from llama_index_ace_finetune.stores.qdrant.connection import connect
from llama_index_ace_finetune.stores.qdrant.filters import qdrant_filter
from llama_index_ace_finetune.stores.qdrant.server_settings import ServerSettings
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25

SECRET = "sk-0123456789-secret"
QUERY = unit_rows(1, 8, seed=9)[0].tolist()
Answer = Callable[[httpx.Request], httpx.Response | None]
# The model of the body of each request, by method and path.
BODIES: dict[tuple[str, str], Any] = {
    ("PUT", ""): models.CreateCollection,
    ("PATCH", ""): models.UpdateCollection,
    ("PUT", "/index"): models.CreateFieldIndex,
    ("PUT", "/points"): models.PointsList,
    ("PUT", "/points/vectors"): models.UpdateVectors,
    ("POST", "/points/delete"): models.PointIdsList,
    ("POST", "/points/count"): models.CountRequest,
    ("POST", "/points/scroll"): models.ScrollRequest,
    ("POST", "/points"): models.PointRequest,
    ("POST", "/points/query/batch"): models.QueryRequestBatch,
}


class Recorder:
    """A server without points that records requests; `answer` may respond first."""

    def __init__(self, *, version: str = "1.16.0", answer: Answer | None = None, peers: int = 0) -> None:
        self.requests: list[httpx.Request] = []
        self._version, self._answer, self._peers = version, answer, peers
        self._created: models.CreateCollection | None = None
        self.transport = httpx.MockTransport(self._reply)

    def of(self, method: str, path: str) -> list[httpx.Request]:
        return [one for one in self.requests if (one.method, _rest(one)) == (method, path)]

    def _reply(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        given = self._answer(request) if self._answer else None
        if given is not None:
            return given
        if request.url.path == "/":
            return httpx.Response(200, json={"title": "qdrant", "version": self._version})
        return httpx.Response(200, json={"result": self._result(request), "status": "ok", "time": 0.0})

    def _result(self, request: httpx.Request) -> Any:
        rest = _rest(request)
        if request.url.path == "/cluster":
            peers = {str(number): {"uri": "http://node"} for number in range(self._peers)}
            raft = {"term": 1, "commit": 1, "pending_operations": 0, "is_voter": True}
            enabled = {"status": "enabled", "peer_id": 0, "peers": peers, "raft_info": raft,
                       "consensus_thread_status": {"consensus_thread_status": "working", "last_update": "2026-01-01"},
                       "message_send_failures": {}}  # fmt: skip
            return enabled if peers else {"status": "disabled"}
        if (request.method, rest) == ("PUT", ""):
            self._created = models.CreateCollection.model_validate_json(request.content)
            return True
        if (request.method, rest) == ("GET", ""):
            return self._info()
        query = [{"points": []}] * len(json.loads(request.content).get("searches", [])) if request.content else []
        return {
            "/exists": {"exists": self._created is not None},
            "/points/count": {"count": 0},
            "/points/scroll": {"points": []},
            "/points": [] if request.method == "POST" else {"operation_id": 0, "status": "completed"},
            "/points/query/batch": query,
            "": True,
        }.get(rest, {"operation_id": 0, "status": "completed"})

    def _info(self) -> Any:
        assert self._created is not None
        made = self._created
        params = {"vectors": made.vectors, "sparse_vectors": made.sparse_vectors, "shard_number": made.shard_number,
                  "replication_factor": made.replication_factor, "on_disk_payload": made.on_disk_payload,
                  "write_consistency_factor": made.write_consistency_factor}  # fmt: skip
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
        optimizer = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
                     "flush_interval_sec": 5}  # fmt: skip
        given = {name: value for name, value in params.items() if value is not None}
        config = models.CollectionConfig.model_validate(
            {"params": given, "hnsw_config": hnsw, "optimizer_config": optimizer, "wal_config": None,
             "metadata": made.metadata}
        )  # fmt: skip
        info = {"status": "green", "optimizer_status": "ok", "segments_count": 1, "payload_schema": {}}
        return {**info, "config": json.loads(config.model_dump_json(exclude_none=True))}


def _rest(request: httpx.Request) -> str:
    found = re.fullmatch(r"/collections/[^/]+(/.*)?", request.url.path)
    return (found.group(1) or "") if found else request.url.path


def store_of(
    recorder: Recorder, collection: CollectionSettings | None = None, *, api_key: str | None = None, **settings: Any
) -> MemoryStore:
    options = ServerSettings(options={"transport": recorder.transport}, **settings)
    return MemoryStore.create(
        NAMED_VECTORS, url="http://qdrant", api_key=api_key, client_options=options, collection_options=collection,
        sparse=SparseBM25.of(["some words"]), payload_indexes={"size": "integer"},
    )  # fmt: skip


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between repeated writes, which do not happen."""
    found: list[float] = []
    monkeypatch.setattr(server_client.time, "sleep", found.append)
    return found


class TestRequests:
    def test_each_is_valid_and_has_the_settings(self) -> None:
        recorder = Recorder(peers=3)
        collection = CollectionSettings(
            shard_number=6, replication_factor=3, write_consistency_factor=2, vectors_on_disk=True,
            payload_on_disk=True, quantization="scalar",
        )  # fmt: skip
        settings = {"wait": False, "read_consistency": "quorum", "write_ordering": "strong", "batch_size": 2}
        with store_of(recorder, collection, **settings) as store:
            store.upsert([node(name) for name in "abc"], vectors(3))
            store.delete(["a"])
            write_vectors(store, FINETUNED, ["5"], unit_rows(1, 8))
            store.search_batch(BASELINE, unit_rows(2, 3), 4, query_filter=qdrant_filter(doc_ids=["doc"]))
            assert (store.search_sparse("words", 3), list(store.nodes()), store.get(["a"])) == ([], [], {})
            assert read_settings(store.client, "memories", store.location, FINETUNED) == collection
        checked = 0
        for request in recorder.requests:
            if request.content:
                body = json.loads(request.content)
                TypeAdapter(BODIES[request.method, _rest(request)]).validate_python(body)
                checked += 1
        assert checked == sum(len(recorder.of(*place)) for place in BODIES if place != ("PATCH", ""))
        created = json.loads(recorder.of("PUT", "")[0].content)
        assert (created["shard_number"], created["replication_factor"], created["write_consistency_factor"]) == (
            6,
            3,
            2,
        )
        assert created["on_disk_payload"] is True
        for vector in created["vectors"].values():
            assert vector["on_disk"] is True
            assert vector["quantization_config"]["scalar"]["type"] == "int8"
        writes = [request for place in BODIES if place[1] in ("/points", "/points/vectors", "/points/delete")
                  for request in recorder.of(*place) if place != ("POST", "/points")]  # fmt: skip
        assert [len(json.loads(request.content)["points"]) for request in recorder.of("PUT", "/points")] == [2, 1]
        assert len(writes) == 4
        assert {(one.url.params["wait"], one.url.params["ordering"]) for one in writes} == {("false", "strong")}
        reads = [request for path in ("/points", "/points/scroll", "/points/query/batch")
                 for request in recorder.of("POST", path)]  # fmt: skip
        assert {request.url.params["consistency"] for request in reads} == {"quorum"}
        search = json.loads(recorder.of("POST", "/points/query/batch")[0].content)["searches"][0]
        assert search["params"] == {"quantization": {"rescore": True, "oversampling": 2.0}}
        indexed = {json.loads(request.content)["field_name"] for request in recorder.of("PUT", "/index")}
        assert indexed == {"size", "ref_doc_id", "doc_id", "document_id"}

    def test_defaults_wait_and_leave_the_rest_to_the_server(self) -> None:
        recorder = Recorder()
        with store_of(recorder) as store:
            store.upsert([node("a")], vectors(1))
        (write,) = recorder.of("PUT", "/points")
        assert dict(write.url.params) == {"wait": "true"}
        assert json.loads(recorder.of("PUT", "")[0].content).keys() == {"vectors", "sparse_vectors", "metadata"}


class TestWrites:
    def test_busy_server_gets_the_write_again(self, pauses: list[float]) -> None:
        answers = [
            httpx.Response(503),
            httpx.Response(429, headers={"Retry-After": "7"}, json={"status": {"error": "busy"}}),
        ]
        recorder = Recorder(answer=lambda one: answers.pop(0) if _rest(one) == "/points" and answers else None)
        with store_of(recorder) as store:
            store.upsert([node("a")], vectors(1))
        assert len({request.content for request in recorder.of("PUT", "/points")}) == 1
        assert len(recorder.of("PUT", "/points")) == 3
        assert 0.25 <= pauses[0] <= 0.4
        assert pauses[1] == 7

    def test_retries_end(self, pauses: list[float]) -> None:
        def answer(request: httpx.Request) -> httpx.Response | None:
            if _rest(request) == "/points":
                raise httpx.ConnectError("connection refused")
            return None

        recorder = Recorder(answer=answer)
        with store_of(recorder, retries=2) as store, pytest.raises(StoreError, match="cannot be reached"):
            store.upsert([node("a")], vectors(1))
        assert len(recorder.of("PUT", "/points")) == 3
        assert len(pauses) == 2

    def test_rejected_write_is_not_repeated(self, pauses: list[float]) -> None:
        wrong = httpx.Response(400, json={"status": {"error": "Wrong input: bad vector"}})
        recorder = Recorder(answer=lambda one: wrong if _rest(one) == "/points" else None)
        with store_of(recorder) as store, pytest.raises(StoreError, match="400: Wrong input: bad vector"):
            store.upsert([node("a")], vectors(1))
        assert (len(recorder.of("PUT", "/points")), pauses) == (1, [])

    def test_too_large_request_is_divided(self, pauses: list[float]) -> None:
        written: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response | None:
            if (request.method, _rest(request)) != ("PUT", "/points"):
                return None
            points = json.loads(request.content)["points"]
            if len(points) > 2:
                return httpx.Response(413)
            written.extend(point["payload"]["id"] if "id" in point["payload"] else point["id"] for point in points)
            return None

        with store_of(Recorder(answer=answer)) as store:
            store.upsert([node(name) for name in "abcde"], vectors(5))
        assert len(set(written)) == len(written) == 5
        assert pauses == []

    def test_lost_writes_without_waiting_are_an_error(self, pauses: list[float]) -> None:
        with store_of(Recorder(), wait=False, timeout=0.01) as store:
            store.upsert([node("a")], vectors(1))
            with pytest.raises(StoreError, match="has 0 of 1 memories that were written"):
                store.wait_until_written(1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "wrong"),
        [({"timeout": 0}, "timeout"), ({"retries": -1}, "retries"), ({"batch_size": 0}, "batch_size"),
         ({"read_consistency": "most"}, "read_consistency"), ({"read_consistency": 0}, "read_consistency"),
         ({"write_ordering": "none"}, "write_ordering")],
    )  # fmt: skip
    def test_invalid_server_setting(self, settings: dict[str, Any], wrong: str) -> None:
        with pytest.raises(StoreError, match=f"server setting {wrong} is"):
            ServerSettings(**settings)

    @pytest.mark.parametrize(
        ("settings", "wrong"),
        [({"shard_number": 0}, "shard_number is 0"), ({"quantization": "int4"}, "give one of scalar, binary"),
         ({"write_consistency_factor": 2}, "only 1 replicas")],
    )  # fmt: skip
    def test_invalid_collection_setting(self, settings: dict[str, Any], wrong: str) -> None:
        with pytest.raises(StoreError, match=wrong):
            CollectionSettings(**settings)

    def test_older_server(self) -> None:
        recorder = Recorder(version="1.15.4")
        with pytest.raises(StoreError, match=r"has version 1\.15\.4, and collections need 1\.16 or later"):
            store_of(recorder)
        assert recorder.of("PUT", "") == []

    @pytest.mark.parametrize(("peers", "found"), [(0, 1), (2, 2)])
    def test_too_few_nodes_for_the_replicas(self, peers: int, found: int) -> None:
        recorder = Recorder(peers=peers)
        with pytest.raises(StoreError, match=f"needs 3 nodes for its replicas, and the cluster in .* has {found};"):
            store_of(recorder, CollectionSettings(replication_factor=3))
        assert recorder.of("PUT", "") == []

    @pytest.mark.parametrize(
        ("version", "sentence"),
        [("1.15.4", r"has version 1\.15\.4"), ("1.16.0", "needs 2 nodes for its replicas, .* has 1;")],
    )
    def test_before_the_data_are_read(self, version: str, sentence: str, tmp_path: Path) -> None:
        def answer(request: httpx.Request) -> httpx.Response | None:
            found = {"/collections": {"collections": []}, "/aliases": {"aliases": []}}.get(request.url.path)
            return httpx.Response(200, json={"result": found, "status": "ok", "time": 0.0}) if found else None

        settings = ServerSettings(options={"transport": Recorder(version=version, answer=answer).transport})
        with pytest.raises(StoreError, match=sentence):
            index_on_server(
                tmp_path / "missing.json", tmp_path / "missing", "http://qdrant", client_options=settings,
                collection_options=CollectionSettings(replication_factor=2),
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("answer", "sentence"),
        [
            (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), "There is no TLS connection"),
            (httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version"), "whether the address begins with http"),
            (httpx.ConnectTimeout("timed out"), "did not answer in time"),
            (httpx.Response(401, text="Must provide an API key"), "rejects the API key"),
            (httpx.Response(500, json={"status": {"error": "The replica set for shard 0 has no active replica"}}),
             "has too few replicas for this request .*; start the missing nodes"),
            (httpx.Response(503), "cannot be reached"),
            (httpx.Response(404, json={"status": {"error": "Collection `SSL_replica` doesn't exist!"}}),
             "cannot be used"),
        ],
    )  # fmt: skip
    def test_failing_server(self, answer: Exception | httpx.Response, sentence: str, pauses: list[float]) -> None:
        def reply(_: httpx.Request) -> httpx.Response:
            if isinstance(answer, Exception):
                raise answer
            return answer

        with pytest.raises(StoreError, match=sentence) as failed:
            store_of(Recorder(answer=reply))
        assert "\n" not in str(failed.value)
        assert "'http://qdrant'" in str(failed.value)

    def test_server_without_tls(self, qdrant_url: str) -> None:
        with pytest.raises(StoreError, match=r"no TLS connection to Qdrant .*begins with http://"):
            MemoryStore.open(url=qdrant_url.replace("http://", "https://"))

    @pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
    def test_server_with_an_unknown_certificate(self, tmp_path: Path) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl makes the certificate, and is not installed")
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        made = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run(
            [*made, "-keyout", key, "-out", certificate, "-subj", "/CN=localhost"], check=True, capture_output=True
        )
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        server = grpc.server(ThreadPoolExecutor(1))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        by_grpc = ServerSettings(prefer_grpc=True, grpc_port=port, timeout=5)
        try:
            # The port answers by HTTP/2, after a TLS handshake that both clients refuse.
            for url, settings in ((f"https://127.0.0.1:{port}", None), ("https://127.0.0.1:9", by_grpc)):
                with pytest.raises(StoreError, match=r"no TLS connection .*CERTIFICATE_VERIFY_FAILED.*check") as failed:
                    MemoryStore.open(url=url, api_key=SECRET, client_options=settings)
                assert SECRET not in str(failed.value)
        finally:
            server.stop(None)


class TestApiKey:
    @pytest.mark.parametrize("echo", [True, False])
    @pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
    def test_is_sent_and_nowhere_else(
        self, echo: bool, pauses: list[float], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Also where the server, or a proxy, sends a request's headers back in its error."""

        def answer(request: httpx.Request) -> httpx.Response | None:
            if _rest(request) != "/points" or request.method != "PUT":
                return None
            if not echo:
                raise httpx.ReadError("connection reset")
            return httpx.Response(500, json={"status": {"error": f"cannot forward {dict(request.headers)}"}})

        recorder = Recorder(answer=answer)
        with caplog.at_level(logging.DEBUG), store_of(recorder, api_key=SECRET) as store:
            with pytest.raises(StoreError) as failed:
                store.upsert([node("a")], vectors(1))
            shown = f"{failed.value} {store.client!r} {store.location} {caplog.text} {capsys.readouterr()}"
        assert {request.headers["api-key"] for request in recorder.requests} == {SECRET}
        assert "is repeated" in caplog.text
        assert SECRET not in shown

    def test_with_a_line_break_is_refused_without_quoting_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(StoreError, match="The API key has a character that no key has") as refused:
            connect(url="http://qdrant", api_key=f"{SECRET}\nother")
        assert SECRET not in str(refused.value)
        monkeypatch.setenv("QDRANT_API_KEY", f"{SECRET}\r\n")  # as of a file
        client, _ = connect(url="https://qdrant")
        assert client.init_options["api_key"] == SECRET
        client.close()
