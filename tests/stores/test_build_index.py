"""Build an index, and read it with LlamaIndex's own vector store."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import BASE, QUERIES, TEXTS, small_memories
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.cache import VectorCache
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import DatasetError, OutputExistsError, StoreError
from llama_index_ace_finetune.pipeline.index import write_index
from llama_index_ace_finetune.run_folder import index_beside
from llama_index_ace_finetune.stores.build_index import build_index, memory_nodes
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(BASE)


def _cached(root: Path, documents: Path, encoder: Encoder) -> VectorCache:
    return VectorCache(root, fingerprint=documents.parent.name, role="document", dimension=encoder.dimension)


class TestBuildIndex:
    def test_memory_text_is_the_embed_text_of_its_node(self) -> None:
        for memory, node in zip(small_memories(), memory_nodes(small_memories()), strict=True):
            assert node.node_id == memory.id
            assert node.get_content(MetadataMode.EMBED) == node.get_content(MetadataMode.LLM) == memory.text
            assert node.metadata == dict(memory.metadata)

    def test_embed_text_is_embedded(self, encoder: Encoder) -> None:
        node = TextNode(id_="n", text="rotate the keys", metadata={"team": "identity"})
        with build_index([node], finetuned=encoder, baseline=None) as store:
            for text in ("rotate the keys", node.get_content(MetadataMode.EMBED)):
                (_, score) = store.search(FINETUNED, encoder.encode_documents([text])[0].tolist(), 1)[0]
                assert (score == pytest.approx(1, abs=1e-5)) == (text != "rotate the keys")

    def test_without_a_baseline_there_is_one_named_vector(self, encoder: Encoder) -> None:
        with build_index(memory_nodes(small_memories()), finetuned=encoder, baseline=None) as store:
            assert list(store.named_vectors) == [FINETUNED]
            assert store.named_vectors[FINETUNED].fingerprint == encoder.fingerprint

    def test_cache_and_progress_are_used(self, encoder: Encoder, tmp_path: Path) -> None:
        done: list[int] = []
        nodes = memory_nodes(small_memories())
        build_index(nodes, finetuned=encoder, baseline=encoder, cache=tmp_path, progress=done.append).close()
        assert sum(done) == 2 * len(nodes)
        text = nodes[0].get_content(MetadataMode.EMBED)
        (existing,) = tmp_path.glob(f"{encoder.fingerprint}-*/document")
        assert _cached(tmp_path, existing, encoder).lookup([text])[0].all()


class TestWriteIndex:
    def test_index_is_replaced_only_with_replace(self, encoder: Encoder, tmp_path: Path) -> None:
        path = tmp_path / "index"
        assert write_index(small_memories()[:2], tuned=encoder, base=encoder, path=path) == 2
        with pytest.raises(OutputExistsError, match=r"already holds an index; .* --replace"):
            write_index(small_memories(), tuned=encoder, base=encoder, path=path)
        assert write_index(small_memories()[:3], tuned=encoder, base=encoder, path=path, replace=True) == 3
        with MemoryStore.open(path=path) as store:
            assert len(store) == 3

    def test_folder_with_other_files_is_never_replaced(self, encoder: Encoder, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(OutputExistsError):
            write_index(small_memories(), tuned=encoder, base=encoder, path=tmp_path, replace=True)
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_files_added_by_a_user_are_kept(self, encoder: Encoder, tmp_path: Path) -> None:
        path = tmp_path / "index"
        write_index(small_memories()[:2], tuned=encoder, base=encoder, path=path)
        (path / "notes.txt").write_text("mine")
        write_index(small_memories()[:3], tuned=encoder, base=encoder, path=path, replace=True)
        assert (path / "notes.txt").read_text() == "mine"
        with MemoryStore.open(path=path) as store:
            assert len(store) == 3
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("replace", [False, True])
    def test_other_embedded_qdrant_is_never_replaced(self, encoder: Encoder, tmp_path: Path, replace: bool) -> None:
        path = tmp_path / "index"
        client = QdrantClient(path=str(path))
        client.create_collection("customers", models.VectorParams(size=4, distance=models.Distance.COSINE))
        client.close()
        with pytest.raises(OutputExistsError, match="holds something that this package did not write"):
            write_index(small_memories(), tuned=encoder, base=encoder, path=path, replace=replace)
        client = QdrantClient(path=str(path))
        assert [found.name for found in client.get_collections().collections] == ["customers"]
        client.close()

    def test_collection_added_by_a_user_is_not_lost(self, encoder: Encoder, tmp_path: Path) -> None:
        path = tmp_path / "index"
        write_index(small_memories()[:2], tuned=encoder, base=encoder, path=path)
        client = QdrantClient(path=str(path))
        client.create_collection("customers", models.VectorParams(size=4, distance=models.Distance.COSINE))
        client.close()
        with pytest.raises(OutputExistsError, match="holds a collection that this package did not write"):
            write_index(small_memories(), tuned=encoder, base=encoder, path=path, replace=True)
        client = QdrantClient(path=str(path))
        assert {found.name for found in client.get_collections().collections} == {"customers", "memories"}
        client.close()

    def test_no_memories(self, encoder: Encoder, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="no memories to index"):
            write_index([], tuned=encoder, base=encoder, path=tmp_path / "index")

    def test_location_of_an_index(self, tmp_path: Path) -> None:
        assert index_beside(tmp_path / "run" / "model") == tmp_path / "run" / "index"
        assert index_beside(tmp_path / "ace_finetuned") == tmp_path / "ace_finetuned_index"


def _killed_at(upsert: int, action: Callable[[], object]) -> None:
    """Run in a child process that is killed before one of its writes."""
    child = os.fork()
    if child == 0:
        seen = itertools.count(1)
        real = MemoryStore.upsert

        def write(*arguments: object, **options: object) -> None:
            if next(seen) == upsert:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments, **options)  # type: ignore[arg-type]

        MemoryStore.upsert = write  # type: ignore[assignment,method-assign]
        try:
            action()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_index_ace_finetune.stores.upsert_nodes._BATCH", 2)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
class TestKilledWhileBuilding:
    """An unfinished collection is never served, and the same call completes it."""

    def test_index(self, encoder: Encoder, tmp_path: Path) -> None:
        path = tmp_path / "index"
        _killed_at(2, lambda: write_index(small_memories(), tuned=encoder, base=encoder, path=path))
        with pytest.raises(StoreError, match="There is no index"):
            MemoryStore.open(path=path)
        assert write_index(small_memories(), tuned=encoder, base=encoder, path=path) == len(small_memories())
        assert list(tmp_path.iterdir()) == [path]

    def test_replaced_index(self, encoder: Encoder, tmp_path: Path) -> None:
        path = tmp_path / "index"
        write_index(small_memories()[:1], tuned=encoder, base=encoder, path=path)
        _killed_at(2, lambda: write_index(small_memories(), tuned=encoder, base=encoder, path=path, replace=True))
        with MemoryStore.open(path=path) as store:
            assert len(store) == 1

    def test_new_folder(self, encoder: Encoder, tmp_path: Path) -> None:
        path = tmp_path / "index"
        nodes = memory_nodes(small_memories())
        _killed_at(2, lambda: build_index(nodes, finetuned=encoder, baseline=None, path=path))
        with pytest.raises(StoreError, match="was not built to the end; repeat the call or command"):
            MemoryStore.open(path=path)
        cache = tmp_path / "cache"
        with build_index(nodes, finetuned=encoder, baseline=None, path=path, cache=cache) as store:
            assert len(store) == len(nodes)
        (existing,) = cache.glob("*/document")
        assert len(_cached(cache, existing, encoder)) == len(nodes) - 2

    def test_index_from_python_is_replaced_by_the_command(self, encoder: Encoder, tmp_path: Path) -> None:
        path = tmp_path / "index"
        build_index(memory_nodes(small_memories()), finetuned=encoder, baseline=None, path=path).close()
        write_index(small_memories()[:2], tuned=encoder, base=encoder, path=path, replace=True)
        with MemoryStore.open(path=path) as store:
            assert len(store) == 2

    @pytest.mark.parametrize("others", [False, True])
    def test_collection_beside_others(self, encoder: Encoder, tmp_path: Path, others: bool) -> None:
        nodes = memory_nodes(small_memories())
        build_index(nodes[:1], finetuned=encoder, baseline=None, path=tmp_path, collection="first").close()
        options = {"finetuned": encoder, "path": tmp_path, "collection": "second"}
        _killed_at(3, lambda: build_index(nodes, baseline=None, **options))
        with pytest.raises(StoreError, match=r"'second' .* was not built to the end"):
            MemoryStore.open(path=tmp_path, collection="second")
        baseline = encoder if others else None
        with build_index(nodes[2:], baseline=baseline, **options) as store:
            assert {node.node_id for node in store.nodes()} == {node.node_id for node in nodes[2:]}
            assert len(store.named_vectors) == (2 if others else 1)
        with MemoryStore.open(path=tmp_path, collection="second") as store:
            assert len(store) == len(nodes) - 2
        with pytest.raises(StoreError, match="already exists"):
            build_index(nodes, baseline=None, **options)


class TestLlamaIndexVectorStore:
    """An existing LlamaIndex application reads the same collection."""

    @pytest.fixture(scope="class")
    def index(self, encoder: Encoder):
        store = build_index(memory_nodes(small_memories()), finetuned=encoder, baseline=encoder)
        vector_store = QdrantVectorStore(
            client=store.client, collection_name=store.collection, dense_vector_name=FINETUNED
        )
        yield VectorStoreIndex.from_vector_store(vector_store, embed_model=FineTunedEmbedding.from_encoder(encoder))
        store.close()

    def test_it_finds_the_same_hits_as_the_store(self, index: VectorStoreIndex, encoder: Encoder) -> None:
        retriever = index.as_retriever(similarity_top_k=3)
        rows = encoder.encode_documents(list(TEXTS.values()))
        for query in QUERIES.values():
            hits = retriever.retrieve(query)
            cosines = rows @ encoder.encode_queries([query])[0]
            best = np.argsort(-cosines)[:3]
            assert [hit.node.node_id for hit in hits] == [list(TEXTS)[row] for row in best]
            assert np.allclose([hit.score for hit in hits], cosines[best], atol=1e-5)

    def test_it_returns_the_same_nodes(self, index: VectorStoreIndex) -> None:
        (hit,) = index.as_retriever(similarity_top_k=1).retrieve(TEXTS["backup"])
        assert hit.node.text == TEXTS["backup"]
        assert hit.node.metadata == dict(next(m for m in small_memories() if m.id == "backup").metadata)

    def test_metadata_can_be_filtered(self, index: VectorStoreIndex) -> None:
        filters = MetadataFilters(filters=[MetadataFilter(key="helpful", value=4)])
        (hit,) = index.as_retriever(similarity_top_k=3, filters=filters).retrieve(QUERIES["backup"])
        assert hit.node.node_id == "retries"
