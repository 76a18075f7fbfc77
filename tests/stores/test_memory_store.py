"""MemoryStore: memories, named vectors and fingerprints in an embedded Qdrant."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.schema import IndexNode, MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.point_ids import point_id
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector

# Qdrant's client warns from another thread, during any test.
pytestmark = pytest.mark.filterwarnings("ignore:Failed to obtain server version")

NAMED_VECTORS = {FINETUNED: NamedVector(4, "f" * 32, "tuned"), BASELINE: NamedVector(3, "b" * 32, "base")}


def unit_rows(count: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def vectors(count: int) -> dict[str, NDArray[np.float32]]:
    return {name: unit_rows(count, named_vector.dimension) for name, named_vector in NAMED_VECTORS.items()}


def nodes(count: int) -> list[TextNode]:
    return [TextNode(id_=f"memory-{number:04}", text=f"text {number}") for number in range(count)]


class TestCreateAndOpen:
    def test_created_store_can_be_opened(self, tmp_path: Path) -> None:
        with MemoryStore.create(NAMED_VECTORS, path=tmp_path / "index") as store:
            store.upsert(nodes(5), vectors(5))
        with MemoryStore.open(path=tmp_path / "index") as again:
            assert again.named_vectors == NAMED_VECTORS
            assert len(again) == 5
            assert sorted(node.text for node in again.nodes()) == [f"text {number}" for number in range(5)]
            hits = again.search(FINETUNED, unit_rows(5, 4)[2].tolist(), 5)
            assert hits[0] == ("memory-0002", pytest.approx(1, abs=1e-5))

    def test_in_memory(self) -> None:
        with MemoryStore.create(NAMED_VECTORS) as store:
            store.upsert(nodes(2), vectors(2))
            assert len(store) == 2

    def test_two_collections_in_one_folder(self, tmp_path: Path) -> None:
        MemoryStore.create(NAMED_VECTORS, path=tmp_path, collection="one").close()
        MemoryStore.create({FINETUNED: NamedVector(2, "x")}, path=tmp_path, collection="two").close()
        with MemoryStore.open(path=tmp_path, collection="two") as store:
            assert store.named_vectors == {FINETUNED: NamedVector(2, "x")}

    def test_existing_collection_is_not_overwritten(self, tmp_path: Path) -> None:
        with MemoryStore.create(NAMED_VECTORS, path=tmp_path) as store:
            store.upsert(nodes(1), vectors(1))
        with pytest.raises(StoreError, match="'memories' already exists"):
            MemoryStore.create(NAMED_VECTORS, path=tmp_path)
        with MemoryStore.open(path=tmp_path) as store:  # the failed call has released the folder
            assert len(store) == 1

    def test_missing_folder_is_not_created(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"no index in the folder.*ace-finetune index"):
            MemoryStore.open(path=tmp_path / "nowhere")
        assert not (tmp_path / "nowhere").exists()

    def test_folder_with_other_files_is_unchanged(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(StoreError, match="no index"):
            MemoryStore.open(path=tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]

    def test_file_instead_of_a_folder(self, tmp_path: Path) -> None:
        file = tmp_path / "index"
        file.write_text("")
        with pytest.raises(StoreError, match="no index"):
            MemoryStore.open(path=file)
        with pytest.raises(StoreError, match="cannot be used"):
            MemoryStore.create(NAMED_VECTORS, path=file)

    def test_another_collection_name(self, tmp_path: Path) -> None:
        MemoryStore.create(NAMED_VECTORS, path=tmp_path).close()
        with pytest.raises(StoreError, match="no collection 'other'"):
            MemoryStore.open(path=tmp_path, collection="other")

    def test_collection_of_another_program(self, tmp_path: Path) -> None:
        client = QdrantClient(path=str(tmp_path))
        client.create_collection("memories", models.VectorParams(size=4, distance=models.Distance.COSINE))
        client.close()
        with pytest.raises(StoreError, match="not built by this package"):
            MemoryStore.open(path=tmp_path)

    def test_damaged_index_is_named_in_the_error(self, tmp_path: Path) -> None:
        MemoryStore.create(NAMED_VECTORS, path=tmp_path).close()
        (tmp_path / "meta.json").write_text('{"collections": ')
        with pytest.raises(StoreError, match=rf"'{tmp_path}/meta\.json' is corrupt"):
            MemoryStore.open(path=tmp_path)

    def test_both_folder_and_address_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="not both"):
            MemoryStore.create(NAMED_VECTORS, path=tmp_path, url="http://localhost:6333")

    def test_unreachable_server(self) -> None:
        with pytest.raises(StoreError, match=r"'http://127\.0\.0\.1:9' cannot be reached"):
            MemoryStore.open(url="http://127.0.0.1:9")


class TestNodes:
    @pytest.mark.parametrize(
        "node_id",
        [
            "7", "expiry", "a/b c?#", "größe-日本語-🧭", "x" * 500, "", " ",
            str(uuid.UUID(int=5)), str(uuid.UUID(int=10)).upper(), uuid.UUID(int=6).hex,
        ],
    )  # fmt: skip
    def test_any_node_id_round_trips(self, node_id: str) -> None:
        with MemoryStore.create(NAMED_VECTORS) as store:
            store.upsert([TextNode(id_=node_id, text="here"), *nodes(2)], vectors(3))
            assert store.get([node_id])[node_id].text == "here"
            assert store.search(FINETUNED, unit_rows(3, 4)[0].tolist(), 1)[0][0] == node_id

    def test_uuid_is_its_own_point_id_without_collisions(self) -> None:
        identifier = str(uuid.uuid4())
        assert point_id(identifier) == identifier
        spellings = {identifier, identifier.upper(), identifier.replace("-", ""), f"{{{identifier}}}", "memory"}
        assert len({point_id(spelling) for spelling in spellings}) == len(spellings)

    def test_existing_id_is_replaced(self) -> None:
        with MemoryStore.create(NAMED_VECTORS) as store:
            store.upsert(nodes(3), vectors(3))
            store.upsert([TextNode(id_="memory-0001", text="new text")], vectors(1))
            assert len(store) == 3
            assert store.get(["memory-0001"])["memory-0001"].text == "new text"

    def test_all_node_fields_are_kept(self) -> None:
        node = TextNode(
            id_="n",
            text="text",
            metadata={"memory_id": 7, "doc_id": "mine", "list": [1, 2], "nested": {"a": None}, "Ä": "ö"},
            excluded_embed_metadata_keys=["doc_id"],
            excluded_llm_metadata_keys=["list"],
        )
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="source document")
        with MemoryStore.create(NAMED_VECTORS) as store:
            store.upsert([node], vectors(1))
            (read,) = store.nodes()
        assert read == node
        assert read.ref_doc_id == "source document"
        assert read.get_content(MetadataMode.EMBED) == node.get_content(MetadataMode.EMBED)

    def test_node_classes_are_kept(self) -> None:
        with MemoryStore.create(NAMED_VECTORS) as store:
            store.upsert([IndexNode(id_="i", text="pointer", index_id="elsewhere")], vectors(1))
            (read,) = store.nodes()
        assert isinstance(read, IndexNode)
        assert read.index_id == "elsewhere"

    def test_get_returns_copies_and_leaves_out_unknown_ids(self) -> None:
        with MemoryStore.create(NAMED_VECTORS) as store:
            store.upsert(nodes(2), vectors(2))
            first = store.get(["memory-0001", "unknown"])
            assert list(first) == ["memory-0001"]
            first["memory-0001"].metadata["changed"] = True
            assert store.get(["memory-0001"])["memory-0001"].metadata == {}
            assert store.get([]) == {}

    def test_more_nodes_than_a_page(self) -> None:
        with MemoryStore.create(NAMED_VECTORS) as store:
            store.upsert(nodes(1100), vectors(1100))
            assert len(store) == 1100
            assert {node.node_id for node in store.nodes()} == {node.node_id for node in nodes(1100)}

    def test_no_nodes(self) -> None:
        with MemoryStore.create(NAMED_VECTORS) as store:
            store.upsert([], {FINETUNED: np.empty((0, 4), np.float32)})
            assert len(store) == 0
            assert list(store.nodes()) == []
            assert store.search(FINETUNED, [1.0, 0.0, 0.0, 0.0], 3) == []


class TestSearch:
    def test_equals_the_cosines(self) -> None:
        rows, query = unit_rows(50, 4), unit_rows(1, 4, seed=9)[0]
        with MemoryStore.create(NAMED_VECTORS) as store:
            store.upsert(nodes(50), vectors(50))
            hits = store.search(FINETUNED, query.tolist(), 10)
        cosines = rows @ query
        order = np.argsort(-cosines)[:10]
        assert [node_id for node_id, _ in hits] == [f"memory-{row:04}" for row in order]
        assert np.allclose([score for _, score in hits], cosines[order], atol=1e-5)

    def test_each_name_searches_its_vectors(self) -> None:
        with MemoryStore.create(NAMED_VECTORS) as store:
            store.upsert(
                nodes(2),
                {FINETUNED: np.eye(4, dtype=np.float32)[:2], BASELINE: np.eye(3, dtype=np.float32)[[1, 0]]},
            )
            assert store.search(FINETUNED, [1, 0, 0, 0], 1) == [("memory-0000", pytest.approx(1))]
            assert store.search(BASELINE, [1, 0, 0], 1) == [("memory-0001", pytest.approx(1))]

    def test_equal_scores_are_ordered_by_id(self) -> None:
        same = np.tile(np.eye(4, dtype=np.float32)[0], (3, 1))
        with MemoryStore.create({FINETUNED: NAMED_VECTORS[FINETUNED]}) as store:
            store.upsert([TextNode(id_=name, text=name) for name in ("c", "a", "b")], {FINETUNED: same})
            assert [node_id for node_id, _ in store.search(FINETUNED, [1, 0, 0, 0], 3)] == ["a", "b", "c"]

    def test_search_from_another_thread(self, tmp_path: Path) -> None:
        found: list[object] = []
        with MemoryStore.create(NAMED_VECTORS, path=tmp_path) as store:
            store.upsert(nodes(3), vectors(3))
            thread = threading.Thread(target=lambda: found.extend(store.search(FINETUNED, [1, 0, 0, 0], 3)))
            thread.start()
            thread.join()
        assert len(found) == 3

    def test_query_vector_of_another_dimension(self) -> None:
        with MemoryStore.create(NAMED_VECTORS) as store, pytest.raises(StoreError, match=r"has 3 dimensions .* has 4"):
            store.search(FINETUNED, [1, 0, 0], 1)

    def test_vectors_of_another_dimension_or_name(self) -> None:
        with MemoryStore.create(NAMED_VECTORS) as store:
            with pytest.raises(StoreError, match=r"'finetuned' have shape \(2, 5\)"):
                store.upsert(nodes(2), {FINETUNED: unit_rows(2, 5)})
            with pytest.raises(StoreError, match=r"\(3, 4\)"):
                store.upsert(nodes(2), {FINETUNED: unit_rows(3, 4)})
            with pytest.raises(StoreError, match=r"'other'.*none of that name"):
                store.upsert(nodes(2), {"other": unit_rows(2, 4)})
            assert len(store) == 0

    def test_closed_store(self) -> None:
        store = MemoryStore.create(NAMED_VECTORS)
        store.close()
        with pytest.raises(StoreError, match="cannot be used"):
            store.search(FINETUNED, [1, 0, 0, 0], 1)
