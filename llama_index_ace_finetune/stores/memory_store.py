"""MemoryStore: one Qdrant collection with the tuned and the baseline vectors of the same memories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import numpy as np
from llama_index.core.schema import BaseNode
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.local_index import EXACT_UP_TO, VectorMirror
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, PointKey, key_of, node_id_of, point_id, point_keys
from llama_index_ace_finetune.stores.qdrant.collections import (
    VectorSpace,
    create_collection,
    read_metadata,
    resolve_alias,
)
from llama_index_ace_finetune.stores.qdrant.connection import connect, failure, told
from llama_index_ace_finetune.stores.qdrant.filter_cache import PassingPoints
from llama_index_ace_finetune.stores.qdrant.node_points import node_points, payload_of, require_own_ids
from llama_index_ace_finetune.stores.qdrant.payload_indexes import PayloadIndexes, create_payload_indexes
from llama_index_ace_finetune.stores.qdrant.points import NodeReader, read_points
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25
from llama_index_ace_finetune.stores.qdrant.write_log import WriteLog, is_embedded, watch
from llama_index_ace_finetune.stores.server_search import Hits, QdrantSearch, Question, rounded

FINETUNED: Final = "finetuned"
BASELINE: Final = "baseline"
DEFAULT_COLLECTION = "memories"
_BATCH = 256

_Result = TypeVar("_Result")


class MemoryStore:
    """Memories in Qdrant, with one named vector per model and the payload that LlamaIndex's `QdrantVectorStore` reads.

    The collection's metadata holds each vector's dimension and model fingerprint, so vectors of different models can
    not be mixed up. Open it with `create`, `open` or `attach`; close it after use, since an embedded folder is locked
    while it is open. An embedded store answers dense searches in this process, with the same results: up to
    `exact_up_to` memories (200,000 unless it is set before the first search) by comparing all vectors, above from an
    inverted file, which finds 99 in 100 of the nearest.
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        spaces: Mapping[str, VectorSpace],
        where: str,
        *,
        sparse: SparseBM25 | None = None,
        owns_client: bool = True,
    ) -> None:
        self.client = client
        self.collection = collection
        self.spaces = dict(spaces)
        self.where = where
        self.sparse = sparse
        self.embedded = is_embedded(client)
        self.exact_up_to = EXACT_UP_TO
        self._owns_client = owns_client
        self._closed = False
        self._log = watch(client)
        self._qdrant = QdrantSearch(client, collection, where, sparse)
        self._reader = NodeReader(where)
        self._mirrors: dict[str, VectorMirror] = {}
        self._passing = PassingPoints(client, collection, where)

    @classmethod
    def create(
        cls,
        spaces: Mapping[str, VectorSpace],
        *,
        path: str | Path | None = None,
        url: str | None = None,
        api_key: str | None = None,
        collection: str = DEFAULT_COLLECTION,
        sparse: SparseBM25 | None = None,
        client_options: Mapping[str, Any] | None = None,
        collection_options: Mapping[str, Any] | None = None,
        payload_indexes: PayloadIndexes | None = None,
    ) -> MemoryStore:
        """Make a new collection: in a folder, on a server, or in memory where neither is given.

        Args:
            spaces: the vectors to hold.
            path: folder of an embedded store.
            url: address of a server instead.
            api_key: of that server; the environment variable QDRANT_API_KEY by default.
            collection: its name.
            sparse: how texts become BM25 vectors, to have Qdrant search words as well.
            client_options: passed to `QdrantClient`, such as `prefer_grpc` and `timeout`.
            collection_options: passed to `create_collection`, such as `shard_number` and `replication_factor`.
            payload_indexes: keys that a server indexes, as `create_payload_indexes` takes them.

        Raises:
            StoreError: if the collection exists, or the folder or the server cannot be used.
        """
        client, where = connect(path=path, url=url, api_key=api_key, client_options=client_options)
        with _closed_on_error(client):
            create_collection(
                client, collection, spaces, where, sparse=sparse, options=collection_options,
                payload_indexes=payload_indexes,
            )  # fmt: skip
            return cls(client, collection, spaces, where, sparse=sparse)

    @classmethod
    def open(
        cls,
        *,
        path: str | Path | None = None,
        url: str | None = None,
        api_key: str | None = None,
        collection: str = DEFAULT_COLLECTION,
        client_options: Mapping[str, Any] | None = None,
    ) -> MemoryStore:
        """Open a collection that `create` made, in a folder or on a server.

        Behind an alias, the collection that it names now: a store stays with the vectors that its models made.

        Raises:
            StoreError: if it is not there, was made by something else, or is locked by another process.
        """
        if path is not None:
            _require_index(Path(path))
        client, where = connect(path=path, url=url, api_key=api_key, client_options=client_options)
        with _closed_on_error(client):
            spaces, sparse = read_metadata(client, collection, where)
            return cls(client, resolve_alias(client, collection), spaces, where, sparse=sparse)

    @classmethod
    def attach(cls, client: QdrantClient, collection: str, *, where: str = "the given client") -> MemoryStore:
        """Open a collection of ours over a client that somebody else opened and will close."""
        spaces, sparse = read_metadata(client, collection, where)
        return cls(client, resolve_alias(client, collection), spaces, where, sparse=sparse, owns_client=False)

    # --------------------------------------------------------------------------------------------------- writing

    def create_payload_indexes(self, indexes: PayloadIndexes) -> None:
        """Have a server index keys of the metadata; see the function of that name."""
        create_payload_indexes(self.client, self.collection, self.where, indexes)

    def upsert(
        self,
        nodes: Sequence[BaseNode],
        vectors: Mapping[str, NDArray[np.float32]],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write nodes with one row of `vectors[name]` [n, dimension] each; a node id that is there is replaced.

        Raises:
            StoreError: for vectors of another shape or name or that are not finite, an id that two different nodes
                share, or a node that JSON cannot hold.
        """
        for name, rows in vectors.items():
            space = self.spaces.get(name)
            if space is None or rows.shape != (len(nodes), space.dimension):
                raise StoreError(
                    f"The vectors {name!r} have shape {rows.shape}, and {self.where} takes "
                    f"{(len(nodes), space.dimension) if space else 'none of that name'}; encode with the index's model."
                )
            if not np.isfinite(rows).all():
                raise StoreError(f"The vectors {name!r} hold NaN or infinity; the model that made them is broken.")
        require_own_ids(nodes)
        for start in range(0, len(nodes), _BATCH):
            part = slice(start, start + _BATCH)
            batch = nodes[part]
            points = node_points(batch, {name: rows[part] for name, rows in vectors.items()}, self.sparse)
            self._call(self.client.upsert, self.collection, points)
            if progress:
                progress(len(batch))

    def delete(self, node_ids: Sequence[str]) -> None:
        """Delete nodes; unknown ids are left aside, and an empty list deletes nothing."""
        for start in range(0, len(node_ids), _BATCH):
            points = [point_id(node_id) for node_id in node_ids[start : start + _BATCH]]
            self._call(self.client.delete, self.collection, models.PointIdsList(points=points))  # type: ignore[arg-type]

    def delete_documents(self, ref_doc_ids: Sequence[str]) -> list[str]:
        """Delete every node of these source documents; return the nodes' ids."""
        node_ids = self.document_nodes(ref_doc_ids)
        self.delete(node_ids)
        return node_ids

    def document_nodes(self, ref_doc_ids: Sequence[str]) -> list[str]:
        """Return the ids of the nodes of these source documents."""
        if not ref_doc_ids:
            return []
        ours = models.FieldCondition(key="ref_doc_id", match=models.MatchAny(any=list(ref_doc_ids)))
        return [node_id_of(p) for p in self._points(only=models.Filter(must=[ours]), with_payload=[NODE_ID_FIELD])]

    def changed(self, nodes: Sequence[BaseNode]) -> list[int]:
        """Return the positions of the nodes that are not in the store as they are here."""
        places = range(0, len(nodes), _BATCH)
        found: list[int] = []
        for start in places:
            batch = nodes[start : start + _BATCH]
            ids = [point_id(node.node_id) for node in batch]
            held = {str(point.id): point for point in self._points(ids=ids, with_vectors=list(self.spaces))}
            for place, (node, identifier) in enumerate(zip(batch, ids, strict=True)):
                point = held.get(identifier)
                whole = point is not None and set(point.vector or {}) >= set(self.spaces)
                if point is None or not whole or point.payload != payload_of(node):
                    found.append(start + place)
        return found

    # ------------------------------------------------------------------------------------------------- searching

    def search(self, name: str, vector: Sequence[float], k: int, *, only: models.Filter | None = None) -> Hits:
        """Return node ids and cosines of the k nearest memories in the space `name`, best first, ties by node id."""
        return self.search_batch(name, np.asarray([vector], np.float32), k, only=only)[0]

    def search_batch(
        self, name: str, vectors: NDArray[np.float32], k: int, *, only: models.Filter | None = None
    ) -> list[Hits]:
        """Return what `search` returns for each row of `vectors` [n, dimension]."""
        self._require_dimension(name, vectors.shape[1])
        self._require_open()
        if not len(vectors):
            return []
        if self.embedded:
            allowed = None if only is None else self.passing(only)
            return self._call(self._mirror(name).search, vectors, k, allowed=allowed)
        questions = [self._qdrant.dense(name, vector.tolist(), k, only) for vector in vectors]
        return [rounded(hits) for hits in self._answer(questions)]

    def search_words(self, query: str, k: int, *, only: models.Filter | None = None) -> Hits:
        """Return node ids and scores of the k best memories by the store's own BM25 vectors."""
        self._require_open()
        question = self._qdrant.words(query, k, only)
        return self._answer([question])[0] if question else []

    def search_both(
        self,
        name: str,
        vector: Sequence[float],
        query: str,
        *,
        dense_k: int,
        words_k: int,
        only: models.Filter | None = None,
    ) -> tuple[Hits, Hits]:
        """Return `search` and `search_words`, from a server in one round trip."""
        self._require_dimension(name, len(vector))
        self._require_open()
        words = self._qdrant.words(query, words_k, only)
        if self.embedded or words is None:
            return self.search(name, vector, dense_k, only=only), self.search_words(query, words_k, only=only)
        dense, sparse = self._answer([self._qdrant.dense(name, vector, dense_k, only), words])
        return rounded(dense), sparse

    def passing(self, only: models.Filter) -> frozenset[PointKey]:
        """Return the ids of the points that pass a filter, as Qdrant decides; remembered until something is written."""
        self._require_open()
        return self._passing.ids(only, self.revision)

    def keep_passing(self, node_ids: Sequence[str], only: models.Filter) -> set[str]:
        """Return those of the nodes that pass a filter."""
        if not node_ids:
            return set()
        these = models.HasIdCondition(has_id=[key for node_id in node_ids for key in point_keys(node_id)])
        points = self._points(only=models.Filter(must=[these, only]), with_payload=[NODE_ID_FIELD])
        return {node_id_of(point) for point in points}

    # --------------------------------------------------------------------------------------------------- reading

    def nodes(self) -> Iterator[BaseNode]:
        """Yield every node that can be read, in the store's order."""
        return (node for _, node in self._reader.read(self._points()))

    def points_as_nodes(self, ids: Sequence[PointKey] | None = None) -> Iterator[tuple[PointKey, str, BaseNode]]:
        """Yield point ids, the ids that searches return for them, and nodes: all, or those of `ids` that are there."""
        points = self._reader.read(self._points(ids=ids))
        return ((key_of(point.id), node_id_of(point), node) for point, node in points)

    def get(self, node_ids: Sequence[str]) -> dict[str, BaseNode]:
        """Return fresh copies of the nodes by the ids that searches return; ids that are not there are left out."""
        ids = [key for node_id in node_ids for key in point_keys(node_id)]
        return {node_id: node for _, node_id, node in self.points_as_nodes(ids)}

    @property
    def unreadable(self) -> int:
        """How many points held no node that could be read, among those that were read so far; they are left out."""
        return self._reader.unreadable

    def __len__(self) -> int:
        return int(self._call(self.client.count, self.collection, exact=True).count)

    @property
    def revision(self) -> int:
        """Goes up with every write through this store's client, so that what was derived is derived again."""
        return self._log.count

    def watch(self) -> WriteLog:
        """Return a log of the writes from now on; it starts with everything."""
        return watch(self.client)

    def reread(self) -> None:
        """Count the terms for `search_words` again: what other processes wrote to a server is not noticed by itself."""
        self._qdrant.reread()

    def close(self) -> None:
        """Close the connection, unless it is somebody else's, and release the folder's lock."""
        self._closed = True
        self._mirrors.clear()
        if self._owns_client:
            self.client.close()

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -------------------------------------------------------------------------------------------------- internals

    def _mirror(self, name: str) -> VectorMirror:
        mirror = self._mirrors.get(name)
        if mirror is None:
            fresh = VectorMirror(
                self.client,
                self.collection,
                name,
                dimension=self.spaces[name].dimension,
                where=self.where,
                exact_up_to=self.exact_up_to,
            )
            mirror = self._mirrors.setdefault(name, fresh)
        return mirror

    def _answer(self, questions: list[Question]) -> list[Hits]:
        self._require_open()
        return self._qdrant.answer(questions)

    def _points(self, **options: Any) -> Iterator[Any]:
        self._require_open()
        return read_points(self.client, self.collection, self.where, **options)

    def _require_open(self) -> None:
        if self._closed:
            raise failure(self.where, RuntimeError("it was closed"))

    def _require_dimension(self, name: str, given: int) -> None:
        if given != self.spaces[name].dimension:
            raise StoreError(
                f"The query vector has {given} dimensions and {name!r} in {self.where} has "
                f"{self.spaces[name].dimension}; use the model that the index was built with."
            )

    def _call(self, function: Callable[..., _Result], *arguments: Any, **options: Any) -> _Result:
        return told(self.where, function, *arguments, **options)


def _require_index(folder: Path) -> None:
    """Raise StoreError where there is none: Qdrant would make an index of any folder that it opens."""
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
    """Close the client, and with it the folder's lock, where what follows fails."""
    try:
        yield
    except BaseException:
        client.close()
        raise
