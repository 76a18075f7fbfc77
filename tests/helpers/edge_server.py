"""A Qdrant server for tests, on 127.0.0.1: Qdrant's own engine (`qdrant-edge-py`) behind the REST paths they use.

Requests are checked by qdrant-client's models. Aliases, metadata and settings are kept by an embedded client. It has
shards and strict mode, and no gRPC, replication or consensus.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import qdrant_edge as edge
from helpers.edge_collection import EdgeCollection, Refusal
from pydantic import TypeAdapter, ValidationError
from qdrant_client import QdrantClient, models

_DONE = {"operation_id": 0, "status": "completed"}
_VERSION = version("qdrant-client")  # its REST API is that of this client
_Do = edge.UpdateOperation


class EdgeServer:
    """The server, as a context manager; `url` is its address."""

    def __init__(self) -> None:
        self._settings = QdrantClient(":memory:")
        self._collections: dict[str, EdgeCollection] = {}
        # In memory if the system has such a folder, since the engine syncs to disk for each new shard.
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._folder = Path(tempfile.mkdtemp(prefix="qdrant-edge-", dir=memory))
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"qdrant": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> EdgeServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        for collection in self._collections.values():
            collection.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """Return the result of a request."""
        if path == "/collections":
            return {"collections": [{"name": name} for name in self._collections]}
        if path == "/cluster":
            return {"status": "disabled"}
        if path == "/aliases":
            return {"aliases": [alias.model_dump() for alias in self._settings.get_aliases().aliases]}
        if path == "/collections/aliases":
            actions = TypeAdapter(models.ChangeAliasesOperation).validate_python(body).actions
            return self._settings.update_collection_aliases(actions)
        found = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
        if found is None:
            raise Refusal(404, f"This server has no {method} {path}")
        name, rest = found.group(1), found.group(2) or ""
        if rest == "/exists":
            return {"exists": name in self._collections or name in self._aliases()}
        if rest == "":
            return self._collection(method, name, body)
        collection = self._named(name)
        with collection.lock:
            return self._points(collection, name, method, rest, body)

    def _aliases(self) -> dict[str, str]:
        return {alias.alias_name: alias.collection_name for alias in self._settings.get_aliases().aliases}

    def _named(self, name: str) -> EdgeCollection:
        collection = self._collections.get(self._aliases().get(name, name))
        if collection is None:
            raise Refusal(404, f"Not found: Collection `{name}` doesn't exist!")
        return collection

    def _collection(self, method: str, name: str, body: dict[str, Any]) -> Any:
        if method == "PUT":
            if name in self._collections:
                raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
            config = models.CreateCollection.model_validate(body)
            self._settings.create_collection(
                name,
                vectors_config=config.vectors or {},
                sparse_vectors_config=config.sparse_vectors,
                metadata=config.metadata,
            )
            self._collections[name] = EdgeCollection(config, self._folder / uuid.uuid4().hex)
            return True
        if method == "DELETE":
            collection = self._collections.pop(name, None)
            if collection is not None:
                self._settings.delete_collection(name)
                collection.close()
            return collection is not None
        collection = self._named(name)
        if method == "PATCH":
            return self._settings.update_collection(
                name, metadata=models.UpdateCollection.model_validate(body).metadata
            )
        info = json.loads(self._settings.get_collection(name).model_dump_json(exclude_none=True))
        info["points_count"] = collection.count()
        info["config"]["params"]["shard_number"] = collection.shard_number
        info["payload_schema"] = {key: {"data_type": kind, "points": 0} for key, kind in collection.indexes.items()}
        return info

    def _points(self, collection: EdgeCollection, name: str, method: str, path: str, body: dict[str, Any]) -> Any:
        readers = {
            "/points/scroll": lambda: collection.scroll(body),
            "/points/count": lambda: {"count": collection.count(body)},
            "/points/query": lambda: collection.query(body),
            "/points/query/batch": lambda: [collection.query(one) for one in body["searches"]],
            "/points": lambda: collection.retrieve(body),
        }
        if path in readers and method == "POST":
            return readers[path]()
        vector = re.fullmatch(r"/vectors/([^/]+)", path)
        if vector:
            config = collection.create_vector(vector.group(1), body)
            self._settings.create_vector_name(name, vector.group(1), config)
        elif (method, path) in (("PUT", "/points"), ("PUT", "/index"), ("PUT", "/points/vectors")):
            {"/points": collection.upsert, "/index": collection.create_index}.get(path, collection.update_vectors)(body)
        else:
            collection.change(body, *_changes(method, path, body))
        return _DONE


def _changes(method: str, path: str, body: dict[str, Any]) -> tuple[Any, Any]:
    """Return an operation on points by their ids, and the same by a filter."""
    payload, key, keys, names = (body.get(name) for name in ("payload", "key", "keys", "vector"))
    if path == "/points/delete":
        return _Do.delete_points, _Do.delete_points_by_filter
    if path == "/points/payload" and method == "POST":
        return lambda ids: _Do.set_payload(ids, payload, key), lambda f: _Do.set_payload_by_filter(f, payload, key)
    if path == "/points/payload":
        return (
            lambda ids: _Do.overwrite_payload(ids, payload, key),
            lambda f: _Do.overwrite_payload_by_filter(f, payload, key),
        )
    if path == "/points/payload/delete":
        return lambda ids: _Do.delete_payload(ids, keys), lambda f: _Do.delete_payload_by_filter(f, keys)
    if path == "/points/payload/clear":
        return _Do.clear_payload, _Do.clear_payload_by_filter
    if path == "/points/vectors/delete":
        return lambda ids: _Do.delete_vectors(ids, names), lambda f: _Do.delete_vectors_by_filter(f, names)
    raise Refusal(404, f"This server has no {method} {path}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    qdrant: EdgeServer

    def _reply(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, status = unquote(urlsplit(self.path).path), 200
        reply: dict[str, Any]
        try:
            if path == "/":
                reply = {"title": "qdrant - vector search engine", "version": _VERSION}
            else:
                result = self.qdrant.answer(self.command, path, json.loads(content) if content else {})
                reply = {"result": result, "status": "ok", "time": 0.0}
        except Exception as error:  # as the server does: always respond
            status = error.status if isinstance(error, Refusal) else 400
            kind = "Format error in JSON body: " if isinstance(error, (ValidationError, KeyError, TypeError)) else ""
            reply = {"status": {"error": f"{kind}{error}"[:600]}, "time": 0.0}
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _reply

    def log_message(self, *_: object) -> None:
        pass
