"""Memory sets, queries and models that are invalid or fail while a retriever serves."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import BASE, QUERIES, TEXTS
from helpers.small_stores import node
from helpers.words_embedding import WordsEmbedding, words_retriever, words_store
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever

NODES = [node("a", "red apples", kind="fruit"), node("b", "green pears", kind="fruit"), node("c", "blue paint")]
MODES = ("hybrid", "dense", "sparse")


def ids(hits: list[NodeWithScore]) -> list[str]:
    return [hit.node.node_id for hit in hits]


def metadata_filter(key: str, value: object, operator: str = "==") -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))])


def first_model(retriever: FineTunedHybridRetriever) -> WordsEmbedding:
    model = retriever._search.chain.models[0]
    assert isinstance(model, WordsEmbedding)
    return model


@pytest.mark.parametrize("mode", MODES)
class TestDeletedSet:
    """The memory set is deleted while the retriever is open: an error in every mode, without a fallback."""

    @pytest.mark.parametrize("asked_before", [False, True])
    async def test_deleted(self, mode: str, asked_before: bool) -> None:
        retriever = words_retriever(NODES, mode=mode)
        if asked_before:
            assert ids(retriever.retrieve("red apples"))[0] == "a"
        retriever.store.client.delete_collection(retriever.store.collection)
        with pytest.raises(StoreError, match="cannot be used"):
            retriever.retrieve("red apples")
        with pytest.raises(StoreError, match="cannot be used"):
            await retriever.aretrieve("red apples")
        assert retriever.fallbacks == {}

    async def test_closed_during_a_query(self, mode: str) -> None:
        """The store is closed after a query has started, before its nodes are read."""
        retriever = words_retriever(NODES, mode=mode)
        retriever.retrieve("red apples")
        begun, closed = threading.Event(), threading.Event()
        read = retriever.store.get

        def late(node_ids: list[str]) -> dict:
            begun.set()
            assert closed.wait(10)
            return read(node_ids)

        retriever.store.get = late  # type: ignore[method-assign, assignment]
        task = asyncio.create_task(retriever.aretrieve("red apples"))
        assert await asyncio.to_thread(begun.wait, 10)
        retriever.close()
        closed.set()
        with pytest.raises(StoreError, match="it was closed"):
            await task


async def test_closed_while_the_query_is_embedded() -> None:
    retriever = words_retriever(NODES)
    retriever.retrieve("red apples")
    first_model(retriever).break_with(delay=0.3)
    tasks = [asyncio.create_task(retriever.aretrieve("red apples")) for _ in range(8)]
    await asyncio.sleep(0.05)
    retriever.close()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(found, StoreError)
        assert "it was closed" in str(found)


class TestEmptySet:
    @pytest.mark.parametrize("sparse", ["in_process", "server"])
    async def test_empty_set_finds_nothing_and_accepts_a_first_memory(self, sparse: str) -> None:
        retriever = words_retriever([], sparse=sparse)
        for mode in MODES:
            assert retriever.search("red apples", mode=mode) == []
            assert retriever.search("red apples", mode=mode, filters=metadata_filter("kind", "fruit")) == []
            assert retriever.search("red apples", mode=mode, node_ids=["a"], doc_ids=["d"]) == []
            assert await retriever.aretrieve_batch(["red apples", ""], mode=mode) == [[], []]
        with words_store(NODES[:1]) as full:
            held, _ = full.client.scroll(full.collection, with_vectors=["finetuned", "baseline"])
        rows = {name: np.array([vector], np.float32) for name, vector in held[0].vector.items()}
        retriever.store.upsert(NODES[:1], rows)
        for mode in MODES:
            assert ids(retriever.search("red apples", mode=mode)) == ["a"]

    def test_from_no_nodes(self) -> None:
        retriever = FineTunedHybridRetriever.from_nodes([], model=BASE, baseline=None)
        assert retriever.retrieve("red apples") == []
        retriever.close()


class TestFilters:
    @pytest.mark.parametrize("mode", MODES)
    def test_key_that_no_node_has(self, mode: str) -> None:
        retriever = words_retriever(NODES, mode=mode)
        assert retriever.search("red apples green blue", filters=metadata_filter("no such key", "x")) == []
        assert retriever.search("red apples green blue", filters=metadata_filter("no such key", 3, ">")) == []
        empty = retriever.search("red apples green blue", filters=metadata_filter("kind", None, "is_empty"))
        assert ids(empty) == ["c"]
        # As in LlamaIndex's SimpleVectorStore, a node without the key is not equal.
        unequal = retriever.search("red apples green blue", filters=metadata_filter("no such key", "x", "!="))
        assert set(ids(unequal)) == {"a", "b", "c"}

    def test_inexpressible_filters_are_refused_at_construction_and_per_call(self) -> None:
        bad = metadata_filter("kind", ["a", "b"])
        with pytest.raises(StoreError, match="cannot express the filter 'kind'"):
            words_retriever(NODES, filters=bad)
        retriever = words_retriever(NODES)
        with pytest.raises(StoreError, match="cannot express the filter 'kind'"):
            retriever.search("red apples", filters=bad)
        assert retriever.served == {}


class TestWrongModel:
    """The search falls back to the vectors that match the models, unless the fallback is off."""

    def test_model_of_another_dimension(self) -> None:
        retriever = words_retriever(NODES)
        first_model(retriever).break_with(length=8)
        assert {hit.served_by for hit in retriever.retrieve("red apples")} == {"baseline"}
        strict = FineTunedHybridRetriever(retriever.store, embed_model=first_model(retriever), fallback="off")
        with pytest.raises(StoreError, match=r"has 8 dimensions and 'finetuned' .* has 64; use the model"):
            strict.retrieve("red apples")

    def test_collection_of_another_program(self, tmp_path: Path) -> None:
        client = QdrantClient(path=str(tmp_path))
        client.create_collection("memories", models.VectorParams(size=384, distance=models.Distance.COSINE))
        client.close()
        with pytest.raises(StoreError, match="was not built by this package; adopt it with"):
            FineTunedHybridRetriever.from_collection(model=BASE, baseline=None, path=tmp_path)
        QdrantClient(path=str(tmp_path)).close()  # the folder was released


class TestUnusualQueriesWithRealModels:
    @pytest.fixture(scope="class")
    def retriever(self):
        nodes = [TextNode(id_=name, text=text) for name, text in TEXTS.items()]
        retriever = FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None, similarity_top_k=3)
        yield retriever
        retriever.close()

    @pytest.mark.parametrize(
        "odd",
        [
            "{} " + "and more words " * 7_000,  # 100 KB
            "{} \ud800",
            "{}\x00\u202e\ufeff",
            "\u200b{}",
            "{} 🧭👩‍👩‍👧",
            "\n\t {}\r\n",
        ],
        ids=["100 KB", "lone surrogate", "control characters", "zero width", "emoji", "space"],
    )
    async def test_they_find_what_the_query_asks(self, retriever: FineTunedHybridRetriever, odd: str) -> None:
        query = odd.format(TEXTS["sandbox"])
        hits = retriever.retrieve(query)
        assert hits[0].node.node_id == "sandbox"
        assert {hit.served_by for hit in hits} == {"base"}
        assert ids(await retriever.aretrieve(query)) == ids(hits)
        assert ids(retriever.retrieve_batch([query, QUERIES["flags"]])[0]) == ids(hits)

    @pytest.mark.parametrize("text", ["\ud800", "", "\x00", "x" * 200_000])
    def test_an_embedding_takes_any_text(self, text: str) -> None:
        embedding = FineTunedEmbedding(BASE)
        for vector in (embedding.get_query_embedding(text), embedding.get_text_embedding(text)):
            assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-4)


def test_options_reach_qdrant(tmp_path: Path) -> None:
    nodes = [TextNode(id_="a", text="red apples")]
    options = {"prefer_grpc": True}
    made = FineTunedHybridRetriever.from_nodes(
        nodes, model=BASE, baseline=None, path=tmp_path, client_options=options, collection_options={"timeout": 9}
    )
    assert made.store.client.init_options["prefer_grpc"]
    made.close()
    again = FineTunedHybridRetriever.from_collection(model=BASE, baseline=None, path=tmp_path, client_options=options)
    assert again.store.client.init_options["prefer_grpc"]
    assert ids(again.retrieve("red apples")) == ["a"]
    again.close()
