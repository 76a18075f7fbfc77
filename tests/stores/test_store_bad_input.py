"""Invalid input to a store: one error sentence, or the correct result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.small_stores import NAMED_VECTORS, MakeStore, node, unit_rows, vectors
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
from qdrant_client import models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.point_ids import point_id
from llama_index_ace_finetune.stores.qdrant.connection import connect
from llama_index_ace_finetune.stores.qdrant.filters import qdrant_filter
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25

QUERY = unit_rows(1, 8, seed=9)[0].tolist()
HOLD = """
import sys
from qdrant_client import QdrantClient
client = QdrantClient(path=sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def one(key: str, value: object, operator: str = "==") -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))])


class TestOpening:
    def test_folder_opened_by_another_process(self, tmp_path: Path) -> None:
        MemoryStore.create(NAMED_VECTORS, path=tmp_path).close()
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(StoreError, match=f"'{tmp_path}' is open in another process; close that one"):
                MemoryStore.open(path=tmp_path)
        finally:
            holder.communicate()
        MemoryStore.open(path=tmp_path).close()

    def test_renamed_folder(self, tmp_path: Path) -> None:
        with MemoryStore.create(NAMED_VECTORS, path=tmp_path / "old") as store:
            store.upsert([node("a")], vectors(1))
        (tmp_path / "old").rename(tmp_path / "new")
        with pytest.raises(StoreError, match=r"no index in the folder .*old"):
            MemoryStore.open(path=tmp_path / "old")
        with MemoryStore.open(path=tmp_path / "new") as store:
            assert len(store) == 1

    def test_renamed_alias_or_alias_of_a_deleted_collection(self, make_store: MakeStore) -> None:
        store = make_store()
        old, new = f"{store.collection}-old", f"{store.collection}-new"
        create = models.CreateAlias(collection_name=store.collection, alias_name=old)
        store.client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
        assert MemoryStore.attach(store.client, old).collection == store.collection
        rename = models.RenameAlias(old_alias_name=old, new_alias_name=new)
        store.client.update_collection_aliases([models.RenameAliasOperation(rename_alias=rename)])
        with pytest.raises(StoreError, match=f"no collection '{old}'"):
            MemoryStore.attach(store.client, old)
        assert MemoryStore.attach(store.client, new).collection == store.collection
        store.client.delete_collection(store.collection)
        with pytest.raises(StoreError, match=f"no collection '{new}'|cannot be used"):
            MemoryStore.attach(store.client, new)
        store.client.create_collection(store.collection, vectors_config={})

    @pytest.mark.parametrize(
        "damage", [{"finetuned": {"dimension": 8}}, {"finetuned": 3}, {"bm25": {"mean_length": 1}}]
    )
    def test_damaged_collection_metadata(self, make_store: MakeStore, damage: dict) -> None:
        store = make_store()
        store.client.update_collection(store.collection, metadata={"ace_finetune": damage})
        with pytest.raises(StoreError, match=r"metadata of the vectors .* is damaged"):
            MemoryStore.attach(store.client, store.collection)

    def test_client_options_are_passed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QDRANT_API_KEY", "from the environment")
        options = {"prefer_grpc": True, "timeout": 7, "check_compatibility": False}
        client, location = connect(url="https://127.0.0.1:9", client_options=options)
        assert location == "'https://127.0.0.1:9'"
        assert client.init_options["api_key"] == "from the environment"
        assert (client.init_options["prefer_grpc"], client.init_options["timeout"]) == (True, 7)
        client, _ = connect(url="https://127.0.0.1:9", api_key="given", client_options=options)
        assert client.init_options["api_key"] == "given"


class TestWrites:
    def test_two_ids_with_one_point(self, make_store: MakeStore) -> None:
        store = make_store()
        nodes = [node("expiry", "one"), node(point_id("expiry"), "two")]
        with pytest.raises(StoreError, match="Two different nodes have the id"):
            store.upsert(nodes, vectors(2))
        assert len(store) == 0

    def test_same_node_twice_is_written_once(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert([node("a"), node("a")], vectors(2))
        assert len(store) == 1

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_nan_or_infinite_vectors(self, make_store: MakeStore, bad: float) -> None:
        store = make_store()
        rows = vectors(2)
        rows[FINETUNED][1, 3] = bad
        with pytest.raises(StoreError, match="'finetuned' have NaN or infinite values"):
            store.upsert([node("a"), node("b")], rows)
        assert len(store) == 0

    @pytest.mark.parametrize("text", ["", " \n", "\x00\u202e", "🧭" * 50, "x" * 200_000, "Å Å", "\ufeffa"])
    def test_unusual_texts_and_values_round_trip(self, make_store: MakeStore, text: str) -> None:
        store = make_store(sparse=SparseBM25.of(["some words"]))
        store.upsert([node("a", text, label=text)], vectors(1))
        found = store.get(["a"])["a"]
        assert (found.get_content(), found.metadata) == (text, {"label": text})
        assert store.search(FINETUNED, QUERY, 3, query_filter=qdrant_filter(one("label", text)))[0][0] == "a"

    def test_nodes_that_are_not_json_are_refused_before_writing(self, make_store: MakeStore) -> None:
        store = make_store()
        for bad in (node("b", "half \ud800"), node("c", label="half \ud800"), node("d", label=object())):
            with pytest.raises(StoreError, match=r"The node '[bcd]' cannot be written as JSON"):
                store.upsert([node("a"), bad], vectors(2))
        for refused in (lambda: store.upsert([node("half \ud800")], vectors(1)), lambda: store.get(["half \ud800"])):
            with pytest.raises(StoreError, match=r"The node id 'half .* has a lone surrogate"):
                refused()
        assert len(store) == 0


class TestEmpty:
    def test_empty_collection_finds_nothing(self, make_store: MakeStore) -> None:
        store = make_store(sparse=SparseBM25.of([]))
        query_filter = qdrant_filter(one("kind", "fruit"))
        for condition in (None, query_filter):
            assert store.search(FINETUNED, QUERY, 3, query_filter=condition) == []
            assert store.search_batch(BASELINE, unit_rows(2, 3), 3, query_filter=condition) == [[], []]
            assert store.search_sparse("apples", 3, query_filter=condition) == []
            assert store.search_both(FINETUNED, QUERY, "apples", dense_k=3, sparse_k=3, query_filter=condition) == (
                [],
                [],
            )
        assert (len(store), list(store.nodes()), store.get(["a"])) == (0, [], {})
        assert store.document_nodes(["doc"]) == store.delete_documents(["doc"]) == []
        assert store.filter_ids([], query_filter or models.Filter()) == set()


class TestFilters:
    NODES = (node("a", size=1.0, kind="fruit"), node("b", size=2, kind="half"), node("c"))

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            (one("kind", [], "in"), ""),
            (one("a.b.c", 1), ""),
            (one("", 1), ""),
            (one("kind[]", "fruit"), None),
            (one("kind", "x" * 100_000), ""),
        ],
    )
    def test_unusual_filter_values_match_as_in_qdrant(self, make_store: MakeStore, filters, expected) -> None:
        store = make_store()
        store.upsert(self.NODES, vectors(3))
        # The first result is cached, and must not be returned for the others.
        assert {n for n, _ in store.search(FINETUNED, QUERY, 9, query_filter=qdrant_filter(one("size", 0, ">")))} == {
            "a",
            "b",
        }
        query_filter = qdrant_filter(filters)
        matching_ids, _ = store.client.scroll(store.collection, scroll_filter=query_filter, limit=9)
        found = {name for name, _ in store.search(FINETUNED, QUERY, 9, query_filter=query_filter)}
        assert found == {point.payload["_node_id"] for point in matching_ids}
        assert expected is None or found == set(expected)

    @pytest.mark.parametrize(
        ("filters", "message"),
        [
            (one("kind", "half \ud800"), "cannot express"),
            (one("half \ud800", 1), "cannot express"),
            (one("kind", ["half \ud800"], "any"), "cannot express"),
            (one("size", float("nan")), "cannot express"),
            (one("size", float("inf"), "<"), "cannot express"),
            (one("size", [1.0, float("-inf")], "all"), "cannot express"),
            (one("size", "not a date", ">"), "cannot express"),
            (one("size", None), "cannot express"),
            (one('a"b', 1), "is not a path"),
            (one("a[x]", 1), "is not a path"),
        ],
    )
    def test_inexpressible_filters_are_refused(self, filters: MetadataFilters, message: str) -> None:
        with pytest.raises(StoreError, match=message):
            qdrant_filter(filters)
