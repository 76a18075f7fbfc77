"""A new model version beside the old one, switched by an alias and switched back."""

from __future__ import annotations

import itertools
import threading
import time
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
from llama_index_ace_finetune.stores.upsert_nodes import upsert_nodes
from llama_index_ace_finetune.stores.versions import build_version, mirror_writes, publish, rollback

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


# ------------------------------------------------------------------------------------------------ dual writes


def contents(store: MemoryStore) -> dict[str, str]:
    return {found.node_id: found.get_content() for found in store.nodes()}


def test_writes_during_a_build_reach_the_version(old: Encoder, new: Encoder) -> None:
    """A new, a changed and a deleted memory, written while the version is embedded."""
    written = False

    def write(_: int) -> None:
        nonlocal written
        if not written:
            written = True
            upsert_nodes(store, [node("n1", "another text"), node("late", "a late note")], {FINETUNED: old})
            store.delete(["n3"])

    with build_index(NODES, finetuned=old, baseline=None, collection="memories.v1") as store:
        version = build_version(store, finetuned=new, baseline=old, progress=write)
        assert contents(version) == contents(store)
        assert contents(version) == {
            "n0": "note number 0", "n1": "another text", "n2": "note number 2", "n4": "note number 4",
            "late": "a late note",
        }  # fmt: skip
        # Their vectors are the new model's.
        vector = new.encode(["a late note"], role="document")[0].tolist()
        assert version.search(FINETUNED, vector, 1) == [("late", pytest.approx(1, abs=1e-5))]


def test_concurrent_writers_lose_nothing(old: Encoder, new: Encoder, tmp_path: Path) -> None:
    """Two threads write and delete while a version is built, published, and after that."""
    with build_index(NODES, finetuned=old, baseline=None, path=tmp_path, collection="memories.v1") as store:
        stop, failures = threading.Event(), []

        def write(name: str) -> None:
            try:
                for number in itertools.count():
                    upsert_nodes(store, [node(f"{name}{number % 7}", f"{name} text {number}")], {FINETUNED: old})
                    store.delete([f"{name}{(number + 3) % 7}"])
                    if stop.wait(0.1):
                        return
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write, args=(name,)) for name in ("x", "y")]
        for thread in threads:
            thread.start()
        try:
            version = build_version(store, finetuned=new, baseline=None)
            with mirror_writes(store, version, finetuned=new, baseline=None) as mirror:
                publish(store.client, "memories", version.collection)
                time.sleep(0.4)
                stop.set()
                for thread in threads:
                    thread.join()
        finally:
            stop.set()
        assert not failures
        assert len(contents(store)) > 7
        assert contents(version) == contents(store)
        assert mirror.sync(everything=True) == 0  # vectors and payloads too


def test_mirror_copies_again_after_an_error(old: Encoder, new: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with build_index(NODES, finetuned=old, baseline=None, collection="memories.v1") as store:
        version = build_version(store, finetuned=new, baseline=None)
        upsert, failing = version.upsert, True

        def fail_once(*arguments: object, **options: object) -> None:
            nonlocal failing
            if failing:
                failing = False
                raise StoreError("the server is away")
            upsert(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(version, "upsert", fail_once)
        mirror = mirror_writes(store, version, finetuned=new, baseline=None)
        upsert_nodes(store, [node("late", "a late note")], {FINETUNED: old})
        with pytest.raises(StoreError, match="away"):
            mirror.sync()
        assert mirror.sync() == 1
        assert contents(version) == contents(store)


def test_mirror_needs_the_models_of_the_version(old: Encoder, new: Encoder) -> None:
    with build_index(NODES, finetuned=old, baseline=None, collection="memories.v1") as store:
        version = build_version(store, finetuned=new, baseline=None)
        with pytest.raises(StoreError, match="need the model that made them"):
            mirror_writes(store, version, finetuned=old, baseline=None).sync()
