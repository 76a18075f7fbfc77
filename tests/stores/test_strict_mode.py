"""Servers in strict mode, which reject filters on keys without a payload index, as managed Qdrant does."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.serving_files import BASE
from helpers.small_stores import NAMED_VECTORS, node, unit_rows, vectors
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.legs.lexical_leg import LexicalLeg
from llama_index_ace_finetune.stores.build_index import build_index
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.filters import qdrant_filter
from llama_index_ace_finetune.stores.qdrant.payload_indexes import read_payload_indexes
from llama_index_ace_finetune.stores.upsert_nodes import refresh_documents
from llama_index_ace_finetune.stores.versions import build_version

STRICT = models.StrictModeConfig(enabled=True, unindexed_filtering_retrieve=False, unindexed_filtering_update=False)
QUERY = unit_rows(1, 8, seed=9)[0].tolist()
NODES = [
    node("a", "red apples", document="doc 1", kind="fruit", size=1),
    node("b", "red paint", document="doc 2", kind="paint", size=2),
]


def one(key: str, value: object, operator: str = "==") -> Any:
    return qdrant_filter(
        MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))])
    )


@pytest.fixture
def place(qdrant_url: str) -> Iterator[dict[str, Any]]:
    """Location of a new collection, which is deleted at the end."""
    name = f"test-{uuid.uuid4().hex}"
    yield {"url": qdrant_url, "collection": name}
    client = QdrantClient(url=qdrant_url)
    client.delete_collection(name)
    client.close()


def strict_store(place: dict[str, Any], **options: Any) -> MemoryStore:
    store = MemoryStore.create(NAMED_VECTORS, **place, collection_options={"strict_mode_config": STRICT}, **options)
    store.upsert(NODES, vectors(2))
    return store


def test_documents_are_found_and_deleted(place: dict[str, Any]) -> None:
    with strict_store(place) as store:
        assert store.document_nodes(["doc 1"]) == ["a"]
        for key in ("doc_id", "ref_doc_id", "document_id"):
            assert [name for name, _ in store.search(FINETUNED, QUERY, 9, query_filter=one(key, "doc 2"))] == ["b"]
        query_filter = qdrant_filter(doc_ids=["doc 1"])
        assert [name for name, _ in LexicalLeg(store).search("red", 9, query_filter=query_filter)] == ["a"]
        assert store.delete_documents(["doc 2"]) == ["b"]
        theirs = QdrantVectorStore(client=store.client, collection_name=store.collection)
        theirs.delete("doc 1")
        assert len(store) == 0


def test_keys_without_an_index_are_refused_with_the_message_of_the_server(place: dict[str, Any]) -> None:
    with strict_store(place) as store, pytest.raises(StoreError) as refused:
        store.search(FINETUNED, QUERY, 9, query_filter=one("kind", "fruit"))
    assert 'Index required but not found for "kind"' in str(refused.value)
    assert "name the key in `payload_indexes`" in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("indexes", [{"kind": "keyword", "size": "integer"}, ["kind"]])
def test_keys_with_an_index_are_filtered(place: dict[str, Any], indexes: Any) -> None:
    with strict_store(place, payload_indexes=indexes) as store:
        for query_filter in [one("kind", "fruit"), one("kind", "paint", "!="), one("kind", ["fruit"], "in")]:
            assert [name for name, _ in store.search(FINETUNED, QUERY, 9, query_filter=query_filter)] == ["a"]
        if "size" in indexes and isinstance(indexes, dict):
            assert [name for name, _ in store.search(FINETUNED, QUERY, 9, query_filter=one("size", 1, ">"))] == ["b"]


def test_index_can_be_added_later(place: dict[str, Any]) -> None:
    with strict_store(place) as store:
        store.create_payload_indexes(["kind", "odd key"])
        assert {"kind", '"odd key"'} <= read_payload_indexes(store.client, store.collection, store.location).keys()
        assert [name for name, _ in store.search(FINETUNED, QUERY, 9, query_filter=one("kind", "fruit"))] == ["a"]


def test_constructors_and_versions_take_payload_indexes(place: dict[str, Any]) -> None:
    encoder = Encoder.load(BASE)
    options = {"strict_mode_config": STRICT}
    with build_index(NODES, finetuned=encoder, baseline=None, collection_options=options, payload_indexes=["kind"],
                     **place) as store:  # fmt: skip
        assert refresh_documents(store, [node("c", "red", document="doc 1")], {FINETUNED: encoder}) == (1, 1)
        version = build_version(store, finetuned=encoder, baseline=None, collection_options=options)
        existing = read_payload_indexes(version.client, version.collection, version.location)
        store.client.delete_collection(version.collection)
        assert {"kind", "doc_id", "ref_doc_id"} <= existing.keys()
    made = {"model": BASE, "baseline": None, "similarity_top_k": 9}
    opened = FineTunedHybridRetriever.from_collection(**place, **made, payload_indexes={"size": "integer"})
    filters = MetadataFilters(filters=[MetadataFilter(key="size", value=2)])
    assert [hit.node.node_id for hit in opened.search("red", filters=filters)] == ["b"]
    opened.close()


def test_adopted_collections_get_payload_indexes(place: dict[str, Any]) -> None:
    client = QdrantClient(url=place["url"])
    options = {"size": 8, "distance": models.Distance.COSINE}
    client.create_collection(place["collection"], models.VectorParams(**options), strict_mode_config=STRICT)
    theirs = QdrantVectorStore(client=client, collection_name=place["collection"])
    named = [one.model_copy(update={"id_": str(uuid.uuid4()), "embedding": QUERY}) for one in NODES]
    theirs.add(named)
    retriever = FineTunedHybridRetriever.from_vector_store(theirs, model=BASE, baseline=None, payload_indexes=["kind"])
    filters = MetadataFilters(filters=[MetadataFilter(key="kind", value="paint")])
    assert [hit.node.node_id for hit in retriever.search("red", filters=filters)] == [named[1].node_id]
    assert retriever.store.document_nodes(["doc 1"]) == [named[0].node_id]
    client.close()


@pytest.mark.parametrize(
    ("indexes", "message"), [("kind", "one string"), ({"kind": "b-tree"}, "no payload index 'b-tree'")]
)
def test_bad_indexes_are_refused_before_a_collection_is_created(place: dict, indexes: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        MemoryStore.create(NAMED_VECTORS, **place, payload_indexes=indexes)
    with pytest.raises(StoreError, match="no collection"):
        MemoryStore.open(**place)
