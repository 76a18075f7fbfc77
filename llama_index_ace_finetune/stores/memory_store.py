"""MemoryStore: a Qdrant collection with the tuned and the baseline vectors of the same memories."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import numpy as np
from llama_index.core.schema import BaseNode
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.stores.local_index import EXACT_UP_TO, LocalVectorIndex
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, PointKey, key_of, node_id_of, point_id, point_keys
from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionOptions
from llama_index_ace_finetune.stores.qdrant.collections import (
    NamedVector,
    create_collection,
    read_metadata,
    resolve_alias,
)
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant, connect
from llama_index_ace_finetune.stores.qdrant.failures import failure
from llama_index_ace_finetune.stores.qdrant.filter_cache import FilterCache
from llama_index_ace_finetune.stores.qdrant.node_points import node_points, payload_of, require_unique_ids
from llama_index_ace_finetune.stores.qdrant.payload_indexes import PayloadIndexes, create_payload_indexes
from llama_index_ace_finetune.stores.qdrant.points import NodeReader, read_points
from llama_index_ace_finetune.stores.qdrant.server_client import ServerClient
from llama_index_ace_finetune.stores.qdrant.server_settings import ClientOptions, ServerSettings
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25
from llama_index_ace_finetune.stores.qdrant.write_log import WriteLog, is_embedded, subscribe
from llama_index_ace_finetune.stores.server_search import Hits, SearchRequest, ServerSearch, round_cosines
from llama_index_ace_finetune.stores.server_tokens import ServerTokens

FINETUNED: Final = "finetuned"
BASELINE: Final = "baseline"
DEFAULT_COLLECTION = "memories"
_BATCH = 256
_POLL: Final = 0.1  # seconds

_Result = TypeVar("_Result")


class MemoryStore:
    """Memories in Qdrant, with one named vector per model and the payload that LlamaIndex's `QdrantVectorStore` reads.

    The collection's metadata holds each vector's dimension and model fingerprint, so that vectors of different models
    are not mixed up. Open it with `create`, `open` or `attach`; close it after use, since an embedded folder is locked
    while it is open. An embedded store does dense searches in this process, with the same results: up to `exact_up_to`
    memories (200,000 unless it is set before the first search) by comparing all vectors, above that with an IVF index
    of recall 0.99.
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        named_vectors: Mapping[str, NamedVector],
        location: str,
        *,
        sparse: SparseBM25 | None = None,
        owns_client: bool = True,
    ) -> None:
        self.client = client
        self.collection = collection
        self.named_vectors = dict(named_vectors)
        self.location = location
        self.sparse = sparse
        self.embedded = is_embedded(client)
        self.exact_up_to = EXACT_UP_TO
        self.tokens: ServerTokens | None = None
        self._owns_client = owns_client
        self._closed = False
        self._log = subscribe(client)
        self._server_search = ServerSearch(client, collection, location, sparse)
        self._reader = NodeReader(location)
        self._local_indexes: dict[str, LocalVectorIndex] = {}
        self._filter_cache = FilterCache(client, collection, location)

    @classmethod
    def create(
        cls,
        named_vectors: Mapping[str, NamedVector],
        *,
        path: str | Path | None = None,
        url: str | None = None,
        api_key: str | None = None,
        collection: str = DEFAULT_COLLECTION,
        sparse: SparseBM25 | None = None,
        client_options: ClientOptions | None = None,
        collection_options: CollectionOptions | None = None,
        payload_indexes: PayloadIndexes | None = None,
    ) -> MemoryStore:
        """Create a collection: in a folder, on a server, or in memory without either.

        Args:
            named_vectors: the dense vectors, by name.
            path: folder of an embedded store.
            url: address of a server instead.
            api_key: of that server; the environment variable QDRANT_API_KEY by default.
            collection: its name.
            sparse: encoder of BM25 vectors, for sparse search in Qdrant; none by default.
            client_options: `ServerSettings`, or arguments of `QdrantClient` such as `prefer_grpc` and `timeout`.
            collection_options: `CollectionSettings`, or arguments of `create_collection` such as `shard_number`.
            payload_indexes: metadata keys that a server indexes, as in `create_payload_indexes`.

        Raises:
            StoreError: if the collection exists, or the folder or the server cannot be used.
        """
        client, location = connect(path=path, url=url, api_key=api_key, client_options=client_options)
        with _closed_on_error(client):
            create_collection(
                client, collection, named_vectors, location, sparse=sparse, options=collection_options,
                payload_indexes=payload_indexes,
            )  # fmt: skip
            return cls(client, collection, named_vectors, location, sparse=sparse)

    @classmethod
    def open(
        cls,
        *,
        path: str | Path | None = None,
        url: str | None = None,
        api_key: str | None = None,
        collection: str = DEFAULT_COLLECTION,
        client_options: ClientOptions | None = None,
    ) -> MemoryStore:
        """Open a collection that `create` made, in a folder or on a server.

        An alias is resolved once: the store keeps the collection whose vectors its models made.

        Raises:
            StoreError: if it does not exist, was made by something else, or is locked by another process.
        """
        if path is not None:
            _require_index(Path(path))
        client, location = connect(path=path, url=url, api_key=api_key, client_options=client_options)
        with _closed_on_error(client):
            named_vectors, sparse = read_metadata(client, collection, location)
            return cls(client, resolve_alias(client, collection), named_vectors, location, sparse=sparse)

    @classmethod
    def attach(cls, client: QdrantClient, collection: str, *, location: str = "the given client") -> MemoryStore:
        """Open a collection of ours with a client that the caller opened and closes."""
        named_vectors, sparse = read_metadata(client, collection, location)
        return cls(client, resolve_alias(client, collection), named_vectors, location, sparse=sparse, owns_client=False)

    # --------------------------------------------------------------------------------------------------- writing

    def use_tokens(self, encoders: Sequence[TokenEncoder]) -> None:
        """From now on write and score the multivectors that one of these encoders made, as `tokens`.

        Raises:
            StoreError: if the collection has none, or another model made them.
        """
        self.tokens = ServerTokens(self.client, self.collection, self.location, encoders)

    def create_payload_indexes(self, indexes: PayloadIndexes) -> None:
        """Create payload indexes on a server; see the function of that name."""
        create_payload_indexes(self.client, self.collection, self.location, indexes)

    def upsert(
        self,
        nodes: Sequence[BaseNode],
        vectors: Mapping[str, NDArray[np.float32]],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write nodes with one row of each `vectors[name]` [n, dimension]; nodes with an existing id are replaced.

        If the store uses the collection's token vectors (`use_tokens`), those of the nodes are written too.

        Raises:
            StoreError: for vectors of another shape or name, NaN or infinite values, two different nodes with one id,
                or a node that cannot be written as JSON.
        """
        for name, rows in vectors.items():
            named_vector = self.named_vectors.get(name)
            if named_vector is None or rows.shape != (len(nodes), named_vector.dimension):
                raise StoreError(
                    f"The vectors {name!r} have shape {rows.shape}, but {self.location} takes "
                    f"{(len(nodes), named_vector.dimension) if named_vector else 'none of that name'}; encode with the "
                    "model of the index."
                )
            if not np.isfinite(rows).all():
                raise StoreError(
                    f"The vectors {name!r} have NaN or infinite values; the model that made them is broken."
                )
        require_unique_ids(nodes)
        size = self.client.settings.batch_size if isinstance(self.client, ServerClient) else _BATCH
        for start in range(0, len(nodes), size):
            part = slice(start, start + size)
            batch = nodes[part]
            points = node_points(batch, {name: rows[part] for name, rows in vectors.items()}, self.sparse)
            for group in [points] if self.tokens is None else self.tokens.groups_of(points, batch):
                self._call(self.client.upsert, self.collection, group)
            if progress:
                progress(len(batch))

    def wait_until_written(self, count: int) -> None:
        """Return when the collection holds at least `count` memories, which takes a moment after writes without `wait`.

        Raises:
            StoreError: if it does not within the timeout of a request.
        """
        settings = self.client.settings if isinstance(self.client, ServerClient) else ServerSettings()
        end = time.monotonic() + (0.0 if settings.wait else settings.timeout)
        while (found := len(self)) < count:
            if time.monotonic() >= end:
                raise StoreError(
                    f"The collection {self.collection!r} in {self.location} has {found} of {count} memories that were "
                    "written; read the log of the server, and repeat the call to write the missing ones."
                )
            time.sleep(_POLL)

    def delete(self, node_ids: Sequence[str]) -> None:
        """Delete nodes; unknown ids are ignored, and an empty list deletes nothing."""
        for start in range(0, len(node_ids), _BATCH):
            points = [point_id(node_id) for node_id in node_ids[start : start + _BATCH]]
            self._call(self.client.delete, self.collection, models.PointIdsList(points=points))  # type: ignore[arg-type]

    def delete_documents(self, ref_doc_ids: Sequence[str]) -> list[str]:
        """Delete all nodes of these source documents; return their ids."""
        node_ids = self.document_nodes(ref_doc_ids)
        self.delete(node_ids)
        return node_ids

    def document_nodes(self, ref_doc_ids: Sequence[str]) -> list[str]:
        """Return the ids of the nodes of these source documents."""
        if not ref_doc_ids:
            return []
        condition = models.FieldCondition(key="ref_doc_id", match=models.MatchAny(any=list(ref_doc_ids)))
        points = self._points(query_filter=models.Filter(must=[condition]), with_payload=[NODE_ID_FIELD])
        return [node_id_of(point) for point in points]

    def changed(self, nodes: Sequence[BaseNode]) -> list[int]:
        """Return the positions of the nodes that are new or differ from the stored ones."""
        starts = range(0, len(nodes), _BATCH)
        found: list[int] = []
        for start in starts:
            batch = nodes[start : start + _BATCH]
            ids = [point_id(node.node_id) for node in batch]
            stored = {str(point.id): point for point in self._points(ids=ids, with_vectors=list(self.named_vectors))}
            for position, (node, identifier) in enumerate(zip(batch, ids, strict=True)):
                point = stored.get(identifier)
                complete = point is not None and set(point.vector or {}) >= set(self.named_vectors)
                if point is None or not complete or point.payload != payload_of(node):
                    found.append(start + position)
        return found

    # ------------------------------------------------------------------------------------------------- searching

    def search(self, name: str, vector: Sequence[float], k: int, *, query_filter: models.Filter | None = None) -> Hits:
        """Return node ids and cosines of the k nearest memories by the vector `name`, best first, ties by node id."""
        return self.search_batch(name, np.asarray([vector], np.float32), k, query_filter=query_filter)[0]

    def search_batch(
        self, name: str, vectors: NDArray[np.float32], k: int, *, query_filter: models.Filter | None = None
    ) -> list[Hits]:
        """Return the results of `search` for each row of `vectors` [n, dimension]."""
        self.require_dimension(name, vectors.shape[1])
        self._require_open()
        if not len(vectors):
            return []
        if self.embedded:
            allowed = None if query_filter is None else self.matching_ids(query_filter)
            return self._call(self._local_index(name).search, vectors, k, allowed=allowed)
        requests = [self._server_search.dense(name, vector.tolist(), k, query_filter) for vector in vectors]
        return [round_cosines(hits) for hits in self._run(requests)]

    def cosines(self, name: str, vectors: NDArray[np.float32], node_ids: Sequence[Sequence[str]]) -> list[Hits]:
        """Return the cosines of each row of `vectors` [n, dimension] with some memories by the vector `name`.

        Memories without that vector are left out.

        Args:
            name: of the vectors.
            vectors: one query per row.
            node_ids: the memories of each query.
        """
        self.require_dimension(name, vectors.shape[1])
        self._require_open()
        if self.embedded:
            cosines = self._local_index(name).cosines
            return [
                [hit for hit in zip(ids, self._call(cosines, vector, ids).tolist(), strict=True) if hit[1] == hit[1]]
                for vector, ids in zip(vectors, node_ids, strict=True)
            ]
        found = self._run([
            self._server_search.dense(name, vector.tolist(), len(ids), _these(ids))
            for vector, ids in zip(vectors, node_ids, strict=True)
        ])  # fmt: skip
        return [round_cosines(hits) for hits in found]

    def sparse_scores(self, query: str, node_ids: Sequence[str]) -> Hits:
        """Return the scores of some memories by the collection's BM25 vectors; those without a match are left out.

        The constant that the variant `plus` adds to every document is left out too.
        """
        self._require_open()
        request = self._server_search.sparse(query, len(node_ids), _these(node_ids))
        return self._run([replace(request, shift=0.0)])[0] if request else []

    def search_sparse(self, query: str, k: int, *, query_filter: models.Filter | None = None) -> Hits:
        """Return node ids and scores of the k best memories by the collection's BM25 vectors."""
        self._require_open()
        request = self._server_search.sparse(query, k, query_filter)
        return self._run([request])[0] if request else []

    def search_both(
        self,
        name: str,
        vector: Sequence[float],
        query: str,
        *,
        dense_k: int,
        sparse_k: int,
        query_filter: models.Filter | None = None,
    ) -> tuple[Hits, Hits]:
        """Return the results of `search` and `search_sparse`, from a server in one round trip."""
        self.require_dimension(name, len(vector))
        self._require_open()
        request = self._server_search.sparse(query, sparse_k, query_filter)
        if self.embedded or request is None:
            dense = self.search(name, vector, dense_k, query_filter=query_filter)
            return dense, self.search_sparse(query, sparse_k, query_filter=query_filter)
        dense, sparse = self._run([self._server_search.dense(name, vector, dense_k, query_filter), request])
        return round_cosines(dense), sparse

    def matching_ids(self, query_filter: models.Filter) -> frozenset[PointKey]:
        """Return the point ids that match a filter, by Qdrant's rules; cached until something is written."""
        self._require_open()
        return self._filter_cache.matching_ids(query_filter, self.revision)

    def filter_ids(self, node_ids: Sequence[str], query_filter: models.Filter) -> set[str]:
        """Return those of the node ids whose points match a filter."""
        if not node_ids:
            return set()
        both = models.Filter(must=[_these(node_ids), query_filter])
        points = self._points(query_filter=both, with_payload=[NODE_ID_FIELD])
        return {node_id_of(point) for point in points}

    # --------------------------------------------------------------------------------------------------- reading

    def nodes(self) -> Iterator[BaseNode]:
        """Yield every readable node, in the store's order."""
        return (node for _, node in self._reader.read(self._points()))

    def points_as_nodes(self, ids: Sequence[PointKey] | None = None) -> Iterator[tuple[PointKey, str, BaseNode]]:
        """Yield point ids, the node ids that searches return, and nodes: of all points, or of the existing `ids`."""
        points = self._reader.read(self._points(ids=ids))
        return ((key_of(point.id), node_id_of(point), node) for point, node in points)

    def get(self, node_ids: Sequence[str]) -> dict[str, BaseNode]:
        """Return copies of the nodes, by the node ids that searches return; unknown ids are left out."""
        ids = [key for node_id in node_ids for key in point_keys(node_id)]
        return {node_id: node for _, node_id, node in self.points_as_nodes(ids)}

    @property
    def unreadable(self) -> int:
        """Number of points read so far that hold no readable node; they are left out."""
        return self._reader.unreadable

    def __len__(self) -> int:
        return int(self._call(self.client.count, self.collection, exact=True).count)

    @property
    def revision(self) -> int:
        """Increases with every write through this store's client, so that caches can be invalidated."""
        return self._log.count

    def subscribe(self) -> WriteLog:
        """Return a log of later writes; its first `drain` says that everything has to be read."""
        return subscribe(self.client)

    def refresh(self) -> None:
        """Count document frequencies for `search_sparse` again; call it after another process wrote to the server."""
        self._server_search.refresh()

    def reread(self) -> None:
        """Deprecated: use `refresh`."""
        warnings.warn("MemoryStore.reread is deprecated; use refresh.", DeprecationWarning, stacklevel=2)
        self.refresh()

    def close(self) -> None:
        """Close the connection, unless the caller opened it, and release the folder's lock."""
        self._closed = True
        self._local_indexes.clear()
        if self._owns_client:
            self.client.close()

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -------------------------------------------------------------------------------------------------- internals

    def _local_index(self, name: str) -> LocalVectorIndex:
        index = self._local_indexes.get(name)
        if index is None:
            fresh = LocalVectorIndex(
                self.client,
                self.collection,
                name,
                dimension=self.named_vectors[name].dimension,
                location=self.location,
                exact_up_to=self.exact_up_to,
            )
            index = self._local_indexes.setdefault(name, fresh)
        return index

    def _run(self, requests: list[SearchRequest]) -> list[Hits]:
        self._require_open()
        return self._server_search.run(requests)

    def _points(self, **options: Any) -> Iterator[Any]:
        self._require_open()
        return read_points(self.client, self.collection, self.location, **options)

    def _require_open(self) -> None:
        if self._closed:
            raise failure(self.location, RuntimeError("it was closed"))

    def require_dimension(self, name: str, given: int) -> None:
        """Raise StoreError if query vectors of this dimension cannot be compared with the vectors of this name."""
        if given != self.named_vectors[name].dimension:
            raise StoreError(
                f"The query vector has {given} dimensions and {name!r} in {self.location} has "
                f"{self.named_vectors[name].dimension}; use the model that the index was built with."
            )

    def _call(self, function: Callable[..., _Result], *arguments: Any, **options: Any) -> _Result:
        return call_qdrant(self.location, function, *arguments, **options)


def _these(node_ids: Sequence[str]) -> models.Filter:
    """Return the filter that only these memories match."""
    keys: list[Any] = [key for node_id in node_ids for key in point_keys(node_id)]
    return models.Filter(must=[models.HasIdCondition(has_id=keys)])


def _require_index(folder: Path) -> None:
    """Raise StoreError if the folder holds no index; Qdrant would create one in any folder that it opens."""
    try:
        found = (folder / "meta.json").is_file()
    except OSError as error:
        raise StoreError(
            f"The index in {str(folder)!r} cannot be read ({error.strerror}); check its permissions."
        ) from error
    if not found:
        raise StoreError(f"There is no index in the folder {str(folder)!r}; build it with `ace-finetune index`.")


@contextmanager
def _closed_on_error(client: QdrantClient) -> Iterator[None]:
    """Close the client, and release the folder's lock, if the block raises."""
    try:
        yield
    except BaseException:
        client.close()
        raise
