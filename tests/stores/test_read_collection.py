"""Collections that others filled, as memories of a dataset."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.read_dataset import read_dataset

NAMES = ("uploads", "keys", "tickets")


def node_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def fill(client: QdrantClient, collection: str) -> None:
    """Write nodes as LlamaIndex does."""
    nodes = [
        TextNode(id_=node_id(name), text=f"All about {name}", metadata={"team": "it"}, embedding=[1.0, 0.0])
        for name in NAMES
    ]
    QdrantVectorStore(collection, client=client).add(nodes)


def add(client: QdrantClient, collection: str, payloads: list[dict[str, Any]]) -> None:
    client.create_collection(collection, models.VectorParams(size=1, distance=models.Distance.DOT))
    points = [models.PointStruct(id=number, vector=[1.0], payload=payload) for number, payload in enumerate(payloads)]
    client.upsert(collection, points)


QUERIES = {f"{name}?": [node_id(name)] for name in NAMES}


def test_llama_index_collection_of_a_server(qdrant_url: str) -> None:
    client = QdrantClient(url=qdrant_url)
    name = f"handbook-{uuid.uuid4().hex}"
    fill(client, name)
    try:
        dataset = read_dataset(f"{qdrant_url}/collections/{name}", queries=QUERIES)
        assert {memory.text for memory in dataset.memories.values()} == {f"team: it\n\nAll about {n}" for n in NAMES}
        assert set(dataset.memories) == {node_id(name) for name in NAMES}
        with pytest.raises(StoreError, match=f"has no collection 'nothing-here'; name one of .*{name}"):
            read_dataset(f"{qdrant_url}/collections/nothing-here")
    finally:
        client.delete_collection(name)
        client.close()


def test_folder_of_an_embedded_qdrant_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "qdrant"
    client = QdrantClient(path=str(folder))
    fill(client, "handbook")
    client.close()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    log = tmp_path / "log.csv"
    log.write_text("query,node_id\n" + "".join(f"{name}?,{node_id(name)}\n" for name in NAMES))
    for address in (folder, str(folder / "collection" / "handbook")):
        dataset = read_dataset(log, address)
        assert dataset.memories[node_id("keys")].text == "team: it\n\nAll about keys"
        assert len(dataset.judgements) == 3
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    client = QdrantClient(path=str(folder))
    add(client, "notes", [{"content": "Retry later", "memory_id": 7}, {"page_content": "Close the file"}])
    add(client, "empty", [{"note": "no text"}])
    client.close()
    with pytest.raises(StoreError, match=r"several collections; name one of empty, handbook, notes, as in .*/col"):
        read_dataset(log, folder)
    notes = read_dataset(folder / "collection" / "notes")
    assert {key: memory.text for key, memory in notes.memories.items()} == {"7": "Retry later", "1": "Close the file"}
    with pytest.raises(StoreError, match=r"No point in the collection 'empty' in .* holds a LlamaIndex node or a text"):
        read_dataset(folder / "collection" / "empty")
