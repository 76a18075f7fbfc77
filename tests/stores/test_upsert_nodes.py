"""Only new and changed nodes are embedded, and an interrupted call is resumed by the next."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.serving_files import BASE
from helpers.small_stores import node

from llama_index_ace_finetune.encoders.cache import VectorCache
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores import upsert_nodes as module
from llama_index_ace_finetune.stores.build_index import build_index
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.upsert_nodes import refresh_documents, upsert_nodes

NODES = [node(f"n{number}", f"note number {number}", document=f"doc {number // 3}") for number in range(9)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(BASE)


@pytest.fixture
def store(encoder: Encoder):
    with build_index(NODES, finetuned=encoder, baseline=None) as store:
        yield store


def test_unchanged_nodes_are_not_embedded_again(store: MemoryStore, encoder: Encoder) -> None:
    encoded: list[int] = []
    assert upsert_nodes(store, NODES, {FINETUNED: encoder}, progress=encoded.append) == 0
    changed = [*NODES[:2], node("n2", "another text"), node("n9", "new")]
    assert upsert_nodes(store, changed, {FINETUNED: encoder}) == 2
    assert len(store) == 10
    assert store.get(["n2"])["n2"].get_content() == "another text"
    assert sum(encoded) == len(NODES)  # reported as done


def test_refresh_replaces_a_document_and_keeps_the_others(store: MemoryStore, encoder: Encoder) -> None:
    new = [NODES[0], node("n1", "rewritten", document="doc 0"), node("extra", "one more", document="doc 0")]
    assert refresh_documents(store, new, {FINETUNED: encoder}) == (2, 1)
    assert sorted(n.node_id for n in store.nodes()) == sorted(
        ["extra", *(n.node_id for n in NODES if n.node_id != "n2")]
    )
    assert refresh_documents(store, new, {FINETUNED: encoder}) == (0, 0)
    assert refresh_documents(store, [], {FINETUNED: encoder}) == (0, 0)


def test_missing_or_other_model_is_refused(store: MemoryStore) -> None:
    with pytest.raises(StoreError, match="none was given"):
        upsert_nodes(store, NODES, {})
    other = Encoder.load(BASE, settings=EncoderSettings(query_prompt="q: "))
    with pytest.raises(StoreError, match="is a different one"):
        upsert_nodes(store, NODES, {FINETUNED: other})


def test_interrupted_build_is_resumed(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 4)
    done: list[int] = []

    def stop(count: int) -> None:
        done.append(count)
        if sum(done) >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(NODES, finetuned=encoder, baseline=None, path=tmp_path, progress=stop)
    with pytest.raises(StoreError, match="was not built to the end"):
        MemoryStore.open(path=tmp_path)
    with build_index(NODES, finetuned=encoder, baseline=None, path=tmp_path, cache=tmp_path / "cache") as whole:
        assert len(whole) == 9
    (existing,) = (tmp_path / "cache").glob("*/document")
    name, cache = existing.parent.name, tmp_path / "cache"
    assert len(VectorCache(cache, fingerprint=name, role="document", dimension=encoder.dimension)) == 5
    with pytest.raises(StoreError, match="already exists"):
        build_index(NODES, finetuned=encoder, baseline=None, path=tmp_path)
    with pytest.raises(StoreError, match="vectors of other models"):
        build_index(NODES, finetuned=encoder, baseline=encoder, path=tmp_path, resume=True)
    with build_index(NODES, finetuned=encoder, baseline=None, path=tmp_path / "new", resume=True) as fresh:
        assert len(fresh) == 9
