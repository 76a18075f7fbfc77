"""Adopt collections of LlamaIndex in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import BASE, QUERIES, TEXTS
from helpers.small_stores import unit_rows
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.stores.adopt import adopt
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore

THEIRS = MockEmbedding(embed_dim=5)


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {
        FINETUNED: Encoder.load(BASE, settings=EncoderSettings(query_prompt="q: ")),
        BASELINE: Encoder.load(BASE),
    }


def llama_index(client: QdrantClient, **options: object) -> tuple[QdrantVectorStore, VectorStoreIndex]:
    vector_store = QdrantVectorStore(client=client, collection_name="theirs", **options)
    context = StorageContext.from_defaults(vector_store=vector_store)
    nodes = [TextNode(text=text, metadata={"name": name}) for name, text in TEXTS.items()]
    return vector_store, VectorStoreIndex(nodes, storage_context=context, embed_model=THEIRS)


@pytest.mark.parametrize("options", [{}, {"dense_vector_name": "own"}])
def test_adopted_collection_has_the_vectors_and_llama_index_can_read_it(
    encoders, options: dict, tmp_path: Path
) -> None:
    client = QdrantClient(path=str(tmp_path))
    _, index = llama_index(client, **options)
    before = {hit.node.node_id: hit.score for hit in index.as_retriever(similarity_top_k=12).retrieve("a query")}
    done: list[int] = []
    store = adopt(client, "theirs", encoders, progress=done.append)
    assert sum(done) == 2 * len(TEXTS) == 2 * len(store)
    texts = [node.get_content(MetadataMode.EMBED) for node in store.nodes()]
    for name, encoder in encoders.items():
        hits = store.search(name, encoder.encode_documents(texts[:1])[0].tolist(), 1)
        assert hits[0][1] == pytest.approx(1, abs=1e-5)
    # LlamaIndex still reads and writes, also through a new store object.
    for retriever in (
        index.as_retriever(similarity_top_k=12),
        reopened(client, options).as_retriever(similarity_top_k=12),
    ):
        assert {hit.node.node_id: hit.score for hit in retriever.retrieve("a query")} == before
    store.close()
    client.close()
    with MemoryStore.open(path=tmp_path, collection="theirs") as again:
        assert again.named_vectors == store.named_vectors
        vector = encoders[FINETUNED].encode_queries([QUERIES["backup"]])[0].tolist()
        assert len(again.search(FINETUNED, vector, 99)) == len(TEXTS)


def reopened(client: QdrantClient, options: dict) -> VectorStoreIndex:
    vector_store = QdrantVectorStore(client=client, collection_name="theirs", **options)
    return VectorStoreIndex.from_vector_store(vector_store, embed_model=THEIRS)


def test_points_added_by_llama_index_get_vectors_at_the_next_adoption(encoders) -> None:
    client = QdrantClient(":memory:")
    _, index = llama_index(client)
    store = adopt(client, "theirs", encoders)
    index.insert_nodes([TextNode(id_="11111111-1111-1111-1111-111111111111", text="a late note on quinces")])
    assert len(store.search(FINETUNED, unit_rows(1, 384)[0].tolist(), 99)) == len(TEXTS)
    done: list[int] = []
    store = adopt(client, "theirs", encoders, progress=done.append)
    assert sum(done) == 2
    vector = encoders[FINETUNED].encode_queries(["quinces"])[0].tolist()
    assert store.search(FINETUNED, vector, 1)[0][0] == "11111111-1111-1111-1111-111111111111"


def test_interrupted_adoption_is_completed_by_calling_again(encoders) -> None:
    client = QdrantClient(":memory:")
    llama_index(client)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adopt(client, "theirs", encoders, progress=stop)
    with pytest.raises(StoreError, match="not built by this package"):
        MemoryStore.attach(client, "theirs")
    assert len(adopt(client, "theirs", encoders)) == len(TEXTS)


def test_from_vector_store(encoders) -> None:
    client = QdrantClient(":memory:")
    vector_store, _ = llama_index(client)
    retriever = FineTunedHybridRetriever.from_vector_store(vector_store, model=BASE, baseline=None, similarity_top_k=1)
    (hit,) = retriever.retrieve(QUERIES["backup"])
    assert hit.node.metadata["name"] == "backup"
    retriever.close()
    assert client.count("theirs").count == len(TEXTS)  # the caller's client stays open


class TestRefused:
    def test_missing_collection(self, encoders) -> None:
        with pytest.raises(StoreError, match="no collection 'theirs'"):
            adopt(QdrantClient(":memory:"), "theirs", encoders)

    def test_points_without_nodes(self, encoders) -> None:
        client = QdrantClient(":memory:")
        client.create_collection("theirs", models.VectorParams(size=2, distance=models.Distance.COSINE))
        client.upsert("theirs", [models.PointStruct(id="1" * 8 + "-1111" * 3 + "-" + "1" * 12, vector=[1, 0])])
        with pytest.raises(StoreError, match=r"No point in .* holds a LlamaIndex node"):
            adopt(client, "theirs", encoders)

    @pytest.mark.parametrize("point", [7, "1" * 8 + "-1111" * 3 + "-" + "1" * 12])
    def test_points_with_other_ids_than_their_nodes(self, encoders, point: int | str) -> None:
        client = QdrantClient(":memory:")
        llama_index(client)
        payload = {"_node_content": TextNode(id_="memory 1", text="x").to_json(), "_node_type": "TextNode"}
        client.upsert("theirs", [models.PointStruct(id=point, vector=[1, 0, 0, 0, 0], payload=payload)])
        with pytest.raises(StoreError, match=rf"point {point!r} .* holds the node 'memory 1'"):
            adopt(client, "theirs", encoders)
        assert set(client.get_collection("theirs").config.params.vectors or {}) & {FINETUNED, BASELINE} == set()

    def test_points_with_integer_ids_of_other_tools(self, encoders) -> None:
        client = QdrantClient(":memory:")
        client.create_collection("theirs", models.VectorParams(size=2, distance=models.Distance.COSINE))
        client.upsert("theirs", [models.PointStruct(id=7, vector=[1, 0], payload={"text": "x"})])
        with pytest.raises(StoreError, match=r"No point .* holds a LlamaIndex node \(the first is 7\)"):
            adopt(client, "theirs", encoders)

    def test_vectors_of_the_same_name_and_another_dimension(self, encoders) -> None:
        client = QdrantClient(":memory:")
        client.create_collection("theirs", {FINETUNED: models.VectorParams(size=2, distance=models.Distance.COSINE)})
        with pytest.raises(StoreError, match=r"already has other vectors 'finetuned' \(2 dimensions"):
            adopt(client, "theirs", encoders)


def test_existing_vectors_of_the_same_model_are_kept(encoders) -> None:
    client = QdrantClient(":memory:")

    def no_words(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        return [[1] for _ in texts], [[1.0] for _ in texts]

    # LlamaIndex names its vectors only in hybrid collections.
    words = {"enable_hybrid": True, "sparse_doc_fn": no_words, "sparse_query_fn": no_words}
    vector_store = QdrantVectorStore(client=client, collection_name="theirs", dense_vector_name=FINETUNED, **words)
    context = StorageContext.from_defaults(vector_store=vector_store)
    nodes = [TextNode(text=text) for text in TEXTS.values()]
    embed_model = FineTunedEmbedding.from_encoder(encoders[BASELINE])
    VectorStoreIndex(nodes, storage_context=context, embed_model=embed_model)
    done: list[int] = []
    other = Encoder.load(BASE, settings=EncoderSettings(document_prompt="a prompt that changes every vector: "))
    with pytest.raises(StoreError, match="were not made by"):
        adopt(client, "theirs", {FINETUNED: other}, progress=done.append)
    store = adopt(client, "theirs", {FINETUNED: encoders[BASELINE]}, progress=done.append)
    assert done == []
    assert store.named_vectors[FINETUNED].fingerprint == encoders[BASELINE].fingerprint


def test_existing_vectors_of_another_model_are_refused(encoders) -> None:
    client = QdrantClient(":memory:")
    _, index = llama_index(client)
    store = adopt(client, "theirs", encoders)
    index.insert_nodes([TextNode(text="late")])
    swapped = {FINETUNED: encoders[BASELINE], BASELINE: encoders[BASELINE]}
    store = adopt(client, "theirs", swapped)
    query = np.ones(384, np.float32).tolist()
    assert len(store.search(FINETUNED, query, 99)) == len(TEXTS)
    assert len(store.search(BASELINE, query, 99)) == len(TEXTS) + 1
