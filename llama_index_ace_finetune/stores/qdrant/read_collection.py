"""The memories of an existing Qdrant collection, by the address of a server or the folder of an embedded Qdrant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qdrant_client import QdrantClient

from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.qdrant.collection_address import (
    OF_FOLDER,
    OF_SERVER,
    embedded_folder,
    is_server,
)
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant, connect
from llama_index_ace_finetune.stores.qdrant.point_memory import TEXT_FIELDS, memory_of_point
from llama_index_ace_finetune.stores.qdrant.points import NodeReader, read_points

if TYPE_CHECKING:
    from llama_index.core.schema import BaseNode


def read_collection(address: str | Path) -> Sequence[BaseNode] | Sequence[Memory]:
    """Return the nodes of a collection that LlamaIndex filled, or the texts of any other as memories.

    Args:
        address: of a server, such as `http://localhost:6333`, whose key is in the environment variable QDRANT_API_KEY;
            or the folder of an embedded Qdrant. Where there are several collections, with the name of one as Qdrant
            itself writes it: `http://localhost:6333/collections/NAME` or `FOLDER/collection/NAME`.

    Raises:
        StoreError: if it cannot be read, holds several collections or no such one, or no point with a text.
    """
    if is_server(address):
        base, _, name = str(address).rstrip("/").partition(f"/{OF_SERVER}/")
        client, location = connect(url=base, client_options={"check_compatibility": False})
    else:
        base, name = embedded_folder(Path(address)) or (str(address), "")
        client, location = connect(path=base)
    try:
        collection = _choose(client, name, base, location)
        return _memories(client, collection, f"the collection {collection!r} in {location}")
    finally:
        client.close()


def _choose(client: QdrantClient, name: str, base: str, location: str) -> str:
    existing = sorted(one.name for one in call_qdrant(location, client.get_collections).collections)
    if name in existing or (name and call_qdrant(location, client.collection_exists, name)):  # an alias
        return name
    if len(existing) == 1 and not name:
        return existing[0]
    if not existing:
        raise StoreError(f"There is no collection in {location}; give the address of a Qdrant that holds one.")
    part = OF_SERVER if is_server(base) else OF_FOLDER
    wrong = f"has no collection {name!r:.80}" if name else "holds several collections"
    raise StoreError(
        f"The Qdrant in {location} {wrong}; name one of {', '.join(existing)[:300]}, as in "
        f"{location.strip(chr(39)).rstrip('/')}/{part}/{existing[0]}."
    )


def _memories(client: QdrantClient, collection: str, location: str) -> Sequence[BaseNode] | Sequence[Memory]:
    points = list(read_points(client, collection, location))
    memories = [memory for point in points if (memory := memory_of_point(point)) is not None and memory.text.strip()]
    if not memories:
        raise StoreError(
            f"No point in {location} holds a LlamaIndex node or a text in one of {', '.join(TEXT_FIELDS)}; give a "
            "collection of texts, or the texts as a file."
        )
    if any("_node_content" in (point.payload or {}) for point in points):
        return [node for _, node in NodeReader(location).read(points)]
    return memories
