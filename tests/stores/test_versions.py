"""A new model version beside the old one, switched by an alias and switched back."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.serving_files import BASE
from helpers.small_stores import node
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.vector_stores.qdrant import QdrantVectorStore

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.build_index import build_index
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.versions import build_version, publish, rollback

NODES = [node(f"n{number}", f"note number {number}") for number in range(5)]


@pytest.fixture(scope="module")
def old() -> Encoder:
    return Encoder.load(BASE)


@pytest.fixture(scope="module")
def new() -> Encoder:
    return Encoder.load(BASE, settings=EncoderSettings(document_prompt="note: "))


def test_publish_and_rollback(old: Encoder, new: Encoder, tmp_path: Path) -> None:
    store = build_index(NODES, finetuned=old, baseline=None, path=tmp_path, collection="memories.v1")
    client = store.client
    publish(client, "memories", "memories.v1")
    version = build_version(store, finetuned=new, baseline=old)
    assert version.collection == "memories.v2"
    assert MemoryStore.attach(client, "memories").collection == "memories.v1"  # not switched yet
    publish(client, "memories", version.collection)
    served = MemoryStore.attach(client, "memories")
    assert served.named_vectors[FINETUNED].fingerprint == new.fingerprint
    assert sorted(n.node_id for n in served.nodes()) == [n.node_id for n in NODES]
    # An open store keeps the vectors of its model.
    vector = old.encode_documents([NODES[3].text])[0].tolist()
    assert store.search(FINETUNED, vector, 1) == [("n3", pytest.approx(1, abs=1e-5))]
    assert build_version(served, finetuned=old, baseline=None).collection == "memories.v3"
    assert rollback(client, "memories") == "memories.v1"
    store.close()
    with MemoryStore.open(path=tmp_path, collection="memories") as reopened:
        assert reopened.collection == "memories.v1"
        assert reopened.named_vectors[FINETUNED].fingerprint == old.fingerprint


def test_llama_index_follows_the_alias(old: Encoder) -> None:
    with build_index(NODES, finetuned=old, baseline=None, collection="memories.v1") as store:
        publish(store.client, "memories", "memories.v1")
        theirs = QdrantVectorStore(client=store.client, collection_name="memories", dense_vector_name=FINETUNED)
        index = VectorStoreIndex.from_vector_store(theirs, embed_model=MockEmbedding(embed_dim=384))
        assert len(index.as_retriever(similarity_top_k=9).retrieve("x")) == 5


def test_interrupted_version_leaves_nothing(old: Encoder, new: Encoder) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with build_index(NODES, finetuned=old, baseline=None, collection="memories.v1") as store:
        with pytest.raises(KeyboardInterrupt):
            build_version(store, finetuned=new, baseline=None, progress=stop)
        assert [c.name for c in store.client.get_collections().collections] == ["memories.v1"]


def test_invalid_publish_and_rollback(old: Encoder) -> None:
    with build_index(NODES, finetuned=old, baseline=None) as store:
        with pytest.raises(StoreError, match="no collection 'other' to publish"):
            publish(store.client, "live", "other")
        with pytest.raises(StoreError, match="There is a collection named 'memories'"):
            publish(store.client, "memories", "memories")
        with pytest.raises(StoreError, match="no alias 'live'"):
            rollback(store.client, "live")
        publish(store.client, "live", "memories")
        publish(store.client, "live", "memories")  # a second time is allowed
        with pytest.raises(StoreError, match="has no earlier version"):
            rollback(store.client, "live")


def test_unfinished_version_is_not_published(old: Encoder, new: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with build_index(NODES, finetuned=old, baseline=None, collection="memories.v1") as store:
        with monkeypatch.context() as patch:
            patch.setattr("llama_index_ace_finetune.stores.versions.mark_finished", lambda *_: None)
            version = build_version(store, finetuned=new, baseline=None)
        with pytest.raises(StoreError, match="was not built to the end; build the version again"):
            publish(store.client, "memories", version.collection)
        with pytest.raises(StoreError, match="was not built to the end"):
            MemoryStore.attach(store.client, version.collection)
