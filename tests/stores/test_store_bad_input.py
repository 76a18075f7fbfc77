"""What a store is given that it cannot take: each is one sentence, or the right answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.small_stores import SPACES, MakeStore, node, unit_rows, vectors
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


class TestWhichSet:
    def test_a_folder_that_another_process_has_open(self, tmp_path: Path) -> None:
        MemoryStore.create(SPACES, path=tmp_path).close()
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

    def test_a_folder_that_was_renamed(self, tmp_path: Path) -> None:
        with MemoryStore.create(SPACES, path=tmp_path / "old") as store:
            store.upsert([node("a")], vectors(1))
        (tmp_path / "old").rename(tmp_path / "new")
        with pytest.raises(StoreError, match=r"no index in the folder .*old"):
            MemoryStore.open(path=tmp_path / "old")
        with MemoryStore.open(path=tmp_path / "new") as store:
            assert len(store) == 1

    def test_an_alias_that_was_renamed_or_whose_collection_is_gone(self, make_store: MakeStore) -> None:
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
    def test_a_collection_whose_record_is_damaged(self, make_store: MakeStore, damage: dict) -> None:
        store = make_store()
        store.client.update_collection(store.collection, metadata={"ace_finetune": damage})
        with pytest.raises(StoreError, match=r"record of the vectors .* is damaged"):
            MemoryStore.attach(store.client, store.collection)

    def test_what_is_passed_on_to_the_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QDRANT_API_KEY", "from the environment")
        options = {"prefer_grpc": True, "timeout": 7, "check_compatibility": False}
        client, where = connect(url="https://127.0.0.1:9", client_options=options)
        assert where == "'https://127.0.0.1:9'"
        assert client.init_options["api_key"] == "from the environment"
        assert (client.init_options["prefer_grpc"], client.init_options["timeout"]) == (True, 7)
        client, _ = connect(url="https://127.0.0.1:9", api_key="given", client_options=options)
        assert client.init_options["api_key"] == "given"


class TestWrites:
    def test_two_ids_that_share_a_point(self, make_store: MakeStore) -> None:
        store = make_store()
        nodes = [node("expiry", "one"), node(point_id("expiry"), "two")]
        with pytest.raises(StoreError, match="stands for two different nodes"):
            store.upsert(nodes, vectors(2))
        assert len(store) == 0

    def test_the_same_node_twice_is_one(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert([node("a"), node("a")], vectors(2))
        assert len(store) == 1

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_vectors_that_are_no_numbers(self, make_store: MakeStore, bad: float) -> None:
        store = make_store()
        rows = vectors(2)
        rows[FINETUNED][1, 3] = bad
        with pytest.raises(StoreError, match="'finetuned' hold NaN or infinity"):
            store.upsert([node("a"), node("b")], rows)
        assert len(store) == 0

    @pytest.mark.parametrize("text", ["", " \n", "\x00\u202e", "🧭" * 50, "x" * 200_000, "Å Å", "\ufeffa"])
    def test_odd_texts_and_values_come_back(self, make_store: MakeStore, text: str) -> None:
        store = make_store(sparse=SparseBM25.of(["some words"]))
        store.upsert([node("a", text, label=text)], vectors(1))
        found = store.get(["a"])["a"]
        assert (found.get_content(), found.metadata) == (text, {"label": text})
        assert store.search(FINETUNED, QUERY, 3, only=qdrant_filter(one("label", text)))[0][0] == "a"

    def test_what_json_cannot_hold_is_told_and_nothing_is_written(self, make_store: MakeStore) -> None:
        store = make_store()
        for bad in (node("b", "half \ud800"), node("c", label="half \ud800"), node("d", label=object())):
            with pytest.raises(StoreError, match=r"The node '[bcd]' cannot be written as JSON"):
                store.upsert([node("a"), bad], vectors(2))
        for refused in (lambda: store.upsert([node("half \ud800")], vectors(1)), lambda: store.get(["half \ud800"])):
            with pytest.raises(StoreError, match=r"The node id 'half .* holds half a character"):
                refused()
        assert len(store) == 0


class TestEmpty:
    def test_an_empty_collection_finds_nothing(self, make_store: MakeStore) -> None:
        store = make_store(sparse=SparseBM25.of([]))
        only = qdrant_filter(one("kind", "fruit"))
        for condition in (None, only):
            assert store.search(FINETUNED, QUERY, 3, only=condition) == []
            assert store.search_batch(BASELINE, unit_rows(2, 3), 3, only=condition) == [[], []]
            assert store.search_words("apples", 3, only=condition) == []
            assert store.search_both(FINETUNED, QUERY, "apples", dense_k=3, words_k=3, only=condition) == ([], [])
        assert (len(store), list(store.nodes()), store.get(["a"])) == (0, [], {})
        assert store.document_nodes(["doc"]) == store.delete_documents(["doc"]) == []
        assert store.keep_passing([], only or models.Filter()) == set()


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
    def test_odd_values_are_what_qdrant_takes_them_for(self, make_store: MakeStore, filters, expected) -> None:
        store = make_store()
        store.upsert(self.NODES, vectors(3))
        # The first is remembered, and must not answer for the others.
        assert {n for n, _ in store.search(FINETUNED, QUERY, 9, only=qdrant_filter(one("size", 0, ">")))} == {"a", "b"}
        only = qdrant_filter(filters)
        passing, _ = store.client.scroll(store.collection, scroll_filter=only, limit=9)
        found = {name for name, _ in store.search(FINETUNED, QUERY, 9, only=only)}
        assert found == {point.payload["_node_id"] for point in passing}
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
            (one("size", [0.5, 1.5], "in"), "cannot express"),
            (one("size", 0.5, "!="), "cannot express"),
            (one("size", "not a date", ">"), "cannot express"),
            (one("size", None), "cannot express"),
            (one('a"b', 1), "names no key"),
            (one("a[x]", 1), "names no key"),
        ],
    )
    def test_what_qdrant_cannot_express_is_told(self, filters: MetadataFilters, message: str) -> None:
        with pytest.raises(StoreError, match=message):
            qdrant_filter(filters)
