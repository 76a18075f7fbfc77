"""MemoryStore: one Qdrant collection with the tuned and the baseline vectors of the same memories."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError

FINETUNED: Final = "finetuned"
BASELINE: Final = "baseline"
DEFAULT_COLLECTION = "memories"
_ID_FIELD = "memory_id"
_NAMESPACE = uuid.UUID("6e1f3a0c-5f0b-5f5e-9a8e-2f6f5d1c7b11")
_BATCH = 256


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """The vectors of one model in a collection: their length, the model's fingerprint and its name."""

    dimension: int
    fingerprint: str
    model: str = ""


class MemoryStore:
    """Memories in Qdrant, with one named vector per model and the payload that LlamaIndex's `QdrantVectorStore` reads.

    The collection's metadata holds each vector's dimension and model fingerprint, so vectors of different models can
    not be mixed up. Open it with `create`, `open` or `connect`; close it after use, since an embedded folder is locked
    while it is open.
    """

    def __init__(self, client: QdrantClient, collection: str, spaces: Mapping[str, VectorSpace], where: str) -> None:
        self.client = client
        self.collection = collection
        self.spaces = dict(spaces)
        self.where = where
        self.revision = 0

    @classmethod
    def create(
        cls,
        spaces: Mapping[str, VectorSpace],
        *,
        path: str | Path | None = None,
        url: str | None = None,
        api_key: str | None = None,
        collection: str = DEFAULT_COLLECTION,
    ) -> MemoryStore:
        """Make a new collection: in a folder, on a server, or in memory where neither is given.

        Raises:
            StoreError: if the collection exists, or the folder or the server cannot be used.
        """
        client, where = _connect(path=path, url=url, api_key=api_key)
        try:
            if client.collection_exists(collection):
                raise StoreError(
                    f"The collection {collection!r} exists already in {where}; give another name or delete it first."
                )
            client.create_collection(
                collection,
                vectors_config={
                    name: models.VectorParams(size=space.dimension, distance=models.Distance.COSINE)
                    for name, space in spaces.items()
                },
                metadata={
                    "ace_finetune": {
                        name: {"dimension": s.dimension, "fingerprint": s.fingerprint, "model": s.model}
                        for name, s in spaces.items()
                    }
                },
            )
        except StoreError:
            client.close()
            raise
        except Exception as error:
            client.close()
            raise _failure(where, error) from error
        return cls(client, collection, spaces, where)

    @classmethod
    def open(
        cls,
        *,
        path: str | Path | None = None,
        url: str | None = None,
        api_key: str | None = None,
        collection: str = DEFAULT_COLLECTION,
    ) -> MemoryStore:
        """Open a collection that `create` made, in a folder or on a server.

        Raises:
            StoreError: if it is not there, was made by something else, or is locked by another process.
        """
        # Qdrant would make an index of any folder that it opens.
        if path is not None and not (Path(path) / "meta.json").is_file():
            raise StoreError(f"There is no index in the folder {str(path)!r}; build it with `ace-finetune index`.")
        client, where = _connect(path=path, url=url, api_key=api_key)
        try:
            spaces = _read_spaces(client, collection, where)
        except StoreError:
            client.close()
            raise
        except Exception as error:
            client.close()
            raise _failure(where, error) from error
        return cls(client, collection, spaces, where)

    def upsert(self, nodes: Sequence[BaseNode], vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Write nodes with one row of `vectors[name]` [n, dimension] each; a node id that is there is replaced.

        `revision` goes up, so that what was derived from the store is derived again.
        """
        for name, rows in vectors.items():
            space = self.spaces.get(name)
            if space is None or rows.shape != (len(nodes), space.dimension):
                raise StoreError(
                    f"The vectors {name!r} have shape {rows.shape}, and {self.where} takes "
                    f"{(len(nodes), space.dimension) if space else 'none of that name'}; encode with the index's model."
                )
        for start in range(0, len(nodes), _BATCH):
            points = [
                models.PointStruct(
                    id=point_id(node.node_id),
                    vector={name: rows[start + place].tolist() for name, rows in vectors.items()},
                    payload={**node_to_metadata_dict(node), _ID_FIELD: node.node_id},
                )
                for place, node in enumerate(nodes[start : start + _BATCH])
            ]
            self._call(self.client.upsert, self.collection, points)
        self.revision += 1

    def search(self, name: str, vector: Sequence[float], k: int) -> list[tuple[str, float]]:
        """Return node ids and cosines of the k nearest memories in the space `name`, best first, ties by node id."""
        if len(vector) != self.spaces[name].dimension:
            raise StoreError(
                f"The query vector has {len(vector)} dimensions and {name!r} in {self.where} has "
                f"{self.spaces[name].dimension}; use the model that the index was built with."
            )
        points = self._call(
            self.client.query_points,
            self.collection,
            query=list(vector),
            using=name,
            limit=k,
            with_payload=[_ID_FIELD],
        ).points
        hits = [(str((point.payload or {})[_ID_FIELD]), float(point.score)) for point in points]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))

    def nodes(self) -> Iterator[BaseNode]:
        """Yield every node, in the store's order."""
        offset: Any = None
        while True:
            points, offset = self._call(self.client.scroll, self.collection, limit=1000, offset=offset)
            for point in points:
                yield metadata_dict_to_node(point.payload or {})
            if offset is None:
                return

    def get(self, node_ids: Sequence[str]) -> dict[str, BaseNode]:
        """Return fresh copies of the nodes with these ids; ids that are not there are left out."""
        points = self._call(
            self.client.retrieve, self.collection, [point_id(node_id) for node_id in node_ids], with_payload=True
        )
        found = [metadata_dict_to_node(point.payload or {}) for point in points]
        return {node.node_id: node for node in found}

    def __len__(self) -> int:
        return int(self._call(self.client.count, self.collection, exact=True).count)

    def close(self) -> None:
        """Close the connection and release the folder's lock."""
        self.client.close()

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            raise _failure(self.where, error) from error


def point_id(node_id: str) -> str:
    """Return the Qdrant point id of a node: itself where it is a UUID, else a UUID made from it."""
    try:
        if str(uuid.UUID(node_id)) == node_id:  # another spelling of a UUID is another id
            return node_id
    except ValueError:
        pass
    return str(uuid.uuid5(_NAMESPACE, node_id))


def _connect(*, path: str | Path | None, url: str | None, api_key: str | None) -> tuple[QdrantClient, str]:
    if path is not None and url is not None:
        raise StoreError("Give either a folder or a server's address for the index, not both.")
    if url is not None:
        return QdrantClient(url=url, api_key=api_key), repr(url)
    where = repr(str(path)) if path is not None else "memory"
    try:
        if path is None:
            return QdrantClient(location=":memory:"), where
        # Searches run in worker threads; the embedded store only reads its arrays there.
        return QdrantClient(path=str(path), force_disable_check_same_thread=True), where
    except RuntimeError as error:
        raise StoreError(
            f"The index folder {where} is open in another process; close that one, or use a Qdrant server."
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise _failure(where, error) from error


def _read_spaces(client: QdrantClient, collection: str, where: str) -> dict[str, VectorSpace]:
    if not client.collection_exists(collection):
        raise StoreError(f"There is no collection {collection!r} in {where}; build it with `ace-finetune index`.")
    metadata = (client.get_collection(collection).config.metadata or {}).get("ace_finetune")
    if not isinstance(metadata, dict):
        raise StoreError(
            f"The collection {collection!r} in {where} was not built by this package; "
            "build one from its memories with `ace-finetune index`."
        )
    return {name: VectorSpace(**space) for name, space in metadata.items()}


def _failure(where: str, error: Exception) -> StoreError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return StoreError(f"The index in {where} cannot be used ({first}); check that it is there and whole.")
