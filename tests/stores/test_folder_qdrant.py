"""Damaged and malicious index folders."""

from __future__ import annotations

import datetime
import logging
import os
import pickle
import random
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_stores import NAMED_VECTORS, node, vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.stored_point import ForbiddenClassError, StoredPoint, read_stored_point

QUERY = [1.0] * 8
STORAGE = "collection/memories/storage.sqlite"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "index"
    with MemoryStore.create(NAMED_VECTORS, path=folder) as store:
        store.upsert([node(f"n{i}", f"text {i} about things") for i in range(12)], vectors(12))
    return folder


@pytest.fixture
def index(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "index")


def change(index: Path, statement: str, *values: Any) -> None:
    with sqlite3.connect(index / STORAGE) as connection:
        connection.execute(statement, values)
    connection.close()


class Command:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def point(payload: Any = None, vector: Any = None) -> bytes:
    return pickle.dumps(models.PointStruct.model_construct(id=1, vector=vector or {}, payload=payload))


class TestHostile:
    @pytest.mark.parametrize(
        "blob",
        [
            lambda mark: pickle.dumps(Command(mark)),
            lambda mark: point({"text": Command(mark)}),
            lambda mark: point(vector={FINETUNED: [Command(mark)]}),
            lambda mark: pickle.dumps(Command(mark), protocol=0),
            lambda mark: f"c__builtin__\neval\n(Vopen('{mark}', 'w')\ntR.".encode(),
            lambda mark: f"cqdrant_client.qdrant_client\nPath.touch\n(V{mark}\ntR.".encode(),
            lambda mark: f"(V{mark}\nios\nmkdir\n.".encode(),
        ],
    )
    @pytest.mark.parametrize("collection", ["memories", "other"])
    def test_point_that_runs_code_is_refused(self, index: Path, blob: Callable[[Path], bytes], collection: str) -> None:
        mark = index.parent / "ran"
        if collection == "other":
            with closing(QdrantClient(path=str(index))) as client:
                client.create_collection("other", models.VectorParams(size=2, distance=models.Distance.DOT))
        with sqlite3.connect(index / f"collection/{collection}/storage.sqlite") as connection:
            connection.execute("INSERT INTO points VALUES ('evil', ?)", [blob(mark)])
        connection.close()
        with pytest.raises(StoreError, match=r"could run code .*not opened; do not use this folder"):
            MemoryStore.open(path=index)
        assert not mark.exists()

    def test_unlisted_collection_files_are_not_read(self, tmp_path: Path) -> None:
        mark, folder = tmp_path / "ran", tmp_path / "index" / "collection" / "memories"
        MemoryStore.create(NAMED_VECTORS, path=tmp_path / "index", collection="a").close()
        folder.mkdir()
        with sqlite3.connect(folder / "storage.sqlite") as connection:
            connection.execute("CREATE TABLE points (id TEXT PRIMARY KEY, point BLOB)")
            connection.execute("INSERT INTO points VALUES ('evil', ?)", [pickle.dumps(Command(mark))])
        connection.close()
        with pytest.raises(StoreError, match="files of a collection that the index does not list"):
            MemoryStore.create(NAMED_VECTORS, path=tmp_path / "index")
        assert not mark.exists()

    def test_view_instead_of_the_points_table_is_refused(self, index: Path) -> None:
        change(index, "DROP TABLE points")
        change(index, "CREATE VIEW points AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id FROM n) "
                      "SELECT id, id AS point FROM n")  # fmt: skip
        with pytest.raises(StoreError, match="no table of points"):
            MemoryStore.open(path=index)

    @pytest.mark.parametrize("name", ["../../outside", "/outside", "..", ".", "a/../../b", "nul\0"])
    def test_collection_outside_of_the_folder_is_refused(self, index: Path, name: str) -> None:
        meta = index / "meta.json"
        escaped = name.replace("\0", "\\u0000")
        meta.write_text(meta.read_text().replace('"memories"', f'"{escaped}"', 1))
        with pytest.raises(StoreError, match=r"outside of the index's folder|corrupt"):
            MemoryStore.open(path=index, collection=name)
        assert not (index.parent.parent / "outside").exists()

    @pytest.mark.parametrize("name", ["meta.json", ".lock", STORAGE, "collection/memories", "collection"])
    @pytest.mark.parametrize("kind", ["link", "pipe"])
    def test_link_or_pipe_is_refused_and_not_written_to(self, index: Path, name: str, kind: str) -> None:
        moved = index.parent / "moved"
        (index / name).rename(moved)
        if kind == "link":
            (index / name).symlink_to(moved)
        else:
            os.mkfifo(index / name)
        start = time.perf_counter()
        with pytest.raises(StoreError):
            MemoryStore.open(path=index)
        assert time.perf_counter() - start < 5

    def test_payload_that_expands_exponentially_is_left_out(self, index: Path, caplog) -> None:
        nested: Any = ["x"]
        for _ in range(40):
            nested = [nested, nested]
        itself: list[Any] = []
        itself.append(itself)
        long = "x" * 100_000
        for place, payload in enumerate(({"a": nested}, {"a": itself}, {"a": [long] * 10_000}, {"a": 10**5000})):
            change(index, "INSERT INTO points VALUES (?, ?)", f"bomb {place}", point(payload))
        start = time.perf_counter()
        with MemoryStore.open(path=index) as store:
            assert len(store) == 12
        assert time.perf_counter() - start < 5
        assert "4 of 16 points" in caplog.text


PAYLOAD = {
    "text": "grün 🧭", "none": None, "yes": True, "whole": 3, "big": 2**70, "half": 0.5, "": "",
    "nested": {"list": [1, ["x"], {}]}, "id": uuid.UUID(int=7), "on": datetime.date(2024, 1, 2),
    "at": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
}  # fmt: skip


class TestRealPoints:
    def test_points_written_by_qdrant_are_read_as_qdrant_reads_them(self, tmp_path: Path) -> None:
        cosine = models.Distance.COSINE
        several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        with closing(QdrantClient(path=str(tmp_path))) as client:
            client.create_collection(
                "named",
                {"dense": models.VectorParams(size=2, distance=cosine),
                 "multi": models.VectorParams(size=2, distance=cosine, multivector_config=several)},
                sparse_vectors_config={"sparse": models.SparseVectorParams()},
            )  # fmt: skip
            client.create_collection("one", models.VectorParams(size=2, distance=cosine))
            sparse = models.SparseVector(indices=[7, 2], values=[0.5, 2])
            client.upsert("named", [
                models.PointStruct(id=1, vector={"dense": [1, 2], "multi": [[1, 2], [3, 4]], "sparse": sparse},
                                   payload=PAYLOAD),
                models.PointStruct(id=str(uuid.UUID(int=9)), vector={"dense": [3, 4]}),
            ])  # fmt: skip
            client.upload_collection("one", vectors=np.eye(2, dtype=np.float32), ids=[4, 5], payload=[{"a": 1}, {}])
            client.set_payload("one", {"b": datetime.datetime(2024, 1, 2)}, points=[5])
        with closing(QdrantClient(path=str(tmp_path))) as client:
            theirs = {name: client.scroll(name, with_vectors=True)[0] for name in ("named", "one")}
        with MemoryStore.create(NAMED_VECTORS, path=tmp_path, collection="ours") as store:
            for name, points in theirs.items():
                assert sorted(store.client.scroll(name, with_vectors=True)[0], key=str) == sorted(points, key=str)
            store.client.delete("one", [4])
        with closing(QdrantClient(path=str(tmp_path))) as client:  # Qdrant opens the folder
            assert client.scroll("one", with_vectors=True)[0] == theirs["one"][1:]
            assert client.scroll("named", with_vectors=True)[0] == theirs["named"]

    def test_plain_values_of_earlier_clients_are_read(self) -> None:
        payload = {**PAYLOAD, "number": np.float64(2.5), "small": np.int16(-3), "set": {1}}
        stored = read_stored_point(point(payload, [1.0, 2.0]))
        assert stored.payload == payload
        assert stored.vector[""].tolist() == [1, 2]

    @settings(max_examples=50)
    @given(
        payload=st.dictionaries(
            st.text(max_size=5),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
                lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
            ),
            max_size=5,
        ),
        numbers=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9),
    )
    def test_any_json_payload_round_trips(self, payload: dict[str, Any], numbers: list[float]) -> None:
        stored = read_stored_point(point(payload, {"x": numbers}))
        assert stored.payload == payload
        assert stored.vector["x"].tolist() == numbers

    def test_length_beyond_the_row_is_damage_and_not_a_lack_of_memory(self) -> None:
        with pytest.raises(ValueError, match="bytes8"):  # 2**40 bytes, of which one is there
            read_stored_point(b"\x8e" + (2**40).to_bytes(8, "little") + b"x")

    @settings(max_examples=200)
    @given(data=st.data())
    def test_changed_bytes_are_read_or_refused(self, data: st.DataObject) -> None:
        blob = bytearray(point(PAYLOAD, {"x": [1.0, 2.0], "s": models.SparseVector(indices=[1], values=[2])}))
        for _ in range(data.draw(st.integers(1, 4))):
            blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
        with suppress(ValueError, ForbiddenClassError):
            assert isinstance(read_stored_point(bytes(blob[: data.draw(st.integers(1, len(blob)))])), StoredPoint)


class TestDamaged:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda index: shutil.rmtree(index / "collection/memories"),
            lambda index: (index / STORAGE).unlink(),
            lambda index: (index / STORAGE).write_bytes(b""),
            lambda index: (index / STORAGE).write_bytes(b"garbage" * 1000),
            lambda index: (index / STORAGE).write_bytes((index / STORAGE).read_bytes()[:5000]),
            lambda index: change(index, "DELETE FROM points"),
            lambda index: change(index, "DROP TABLE points"),
            lambda index: change(index, "UPDATE points SET point = x'00'"),
            lambda index: (index / "meta.json").write_text("[]"),
            lambda index: (index / "meta.json").write_text('{"collections": {"memories": 1}, "aliases": {}}'),
            lambda index: (index / "meta.json").write_text('{"collections": {}, "aliases": {}}'),
            lambda index: (index / "meta.json").write_text('{"collections": {"a": {"vectors": {}}}, "aliases": 1}'),
        ],
        ids=range(12),
    )
    def test_store_that_lost_its_points_is_refused(self, index: Path, damage: Callable[[Path], None]) -> None:
        damage(index)
        with pytest.raises(StoreError, match=r"; build the index again|build it with") as refused:
            MemoryStore.open(path=index)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 500

    def test_flipped_bits_are_refused_or_left_out(self, index: Path) -> None:
        storage, chance, whole = index / STORAGE, random.Random(4), (index / STORAGE).read_bytes()
        refused = 0
        for _ in range(60):
            flipped = bytearray(whole)
            for _ in range(chance.choice([1, 3, 9])):
                flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            storage.write_bytes(flipped)
            try:
                with MemoryStore.open(path=index) as store:
                    assert 0 < len(store) <= 12
                    store.search(FINETUNED, QUERY, 3)
            except StoreError:
                refused += 1
        assert 0 < refused < 60

    def test_damaged_point_is_left_out_and_counted(self, index: Path, caplog) -> None:
        change(index, "UPDATE points SET point = substr(point, 1, 90) WHERE rowid = 3")
        with caplog.at_level(logging.WARNING), MemoryStore.open(path=index) as store:
            assert len(store) == len(store.search(FINETUNED, QUERY, 20)) == 11
        assert "1 of 12 points" in caplog.text

    def test_vector_of_another_dimension_is_damaged(self, index: Path, caplog) -> None:
        change(index, "INSERT INTO points VALUES ('x', ?)", point({}, {FINETUNED: [1.0, 2.0]}))
        with MemoryStore.open(path=index) as store:
            assert len(store.search(FINETUNED, QUERY, 20)) == 12
        assert "1 of 13 points" in caplog.text


class TestTransactions:
    """A call writes all of its points or none, and waits for the disk once."""

    @pytest.fixture
    def store(self, index: Path) -> Any:
        with MemoryStore.open(path=index) as store:
            yield store

    @staticmethod
    def points_of(store: MemoryStore) -> Any:
        return store.client._client.collections["memories"].storage

    def test_points_of_a_call_are_committed_at_once(self, store: MemoryStore) -> None:
        statements: list[str] = []
        self.points_of(store).storage.set_trace_callback(statements.append)
        store.upsert([node(f"more{i}", f"text {i}") for i in range(20)], vectors(20))
        store.delete([f"more{i}" for i in range(5)])
        assert [name for name in statements if name in ("BEGIN ", "COMMIT")] == ["BEGIN ", "COMMIT"] * 2

    @pytest.mark.parametrize("event", ["INSERT", "DELETE"])
    def test_after_a_failed_write_memory_and_file_have_what_they_had(
        self, store: MemoryStore, index: Path, event: str
    ) -> None:
        def content() -> Any:
            return store.get(["n0", "n3", "more0"]), store.search(FINETUNED, QUERY, 12)

        before = content()
        fails = {
            "INSERT": lambda: store.upsert([node(f"more{i}", f"text {i}") for i in range(5)], vectors(5)),
            "DELETE": lambda: store.delete([f"n{i}" for i in range(5)]),
        }[event]
        file = self.points_of(store).storage
        # The third point that is written or deleted fails.
        count = 14 if event == "INSERT" else 10
        file.execute(
            f"CREATE TEMP TRIGGER full BEFORE {event} ON points WHEN (SELECT COUNT(*) FROM points) = {count} "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
        with pytest.raises((StoreError, sqlite3.Error), match="disk full"):
            fails()
        assert content() == before
        assert len(store) == 12
        store.upsert([node("more0", "a text about retries")], vectors(1))  # the trigger is gone with its connection
        store.close()
        with MemoryStore.open(path=index) as reopened:
            assert len(reopened) == 13
            assert reopened.get(["more0"])["more0"].get_content() == "a text about retries"

    def test_refused_points_leave_the_collection_open(self, store: MemoryStore) -> None:
        collection = store.client._client.collections["memories"]
        with pytest.raises(ValueError, match=r"(?i)vector"):
            store.client.upsert("memories", [models.PointStruct(id=1, vector={"no such": [1.0]})])
        assert store.client._client.collections["memories"] is collection


class TestRecord:
    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM points WHERE rowid < 4",
            "UPDATE points SET point = (SELECT point FROM points WHERE rowid = 1) WHERE rowid = 2",
        ],
    )
    def test_missing_points_are_logged(self, index: Path, caplog, statement: str) -> None:
        change(index, statement)
        with MemoryStore.open(path=index) as store:
            assert len(store) < 12
        assert "12 were written" in caplog.text

    def test_changed_point_is_logged(self, index: Path, caplog) -> None:
        with sqlite3.connect(index / STORAGE) as connection:
            key, blob = connection.execute("SELECT id, point FROM points").fetchone()
            connection.execute("UPDATE points SET point = ? WHERE id = ?", [blob.replace(b"about", b"abort"), key])
        connection.close()
        MemoryStore.open(path=index).close()
        assert "changed by another program" in caplog.text

    def test_own_writes_are_not_logged_as_damage(self, index: Path, caplog) -> None:
        with MemoryStore.open(path=index) as store:
            store.upsert([node("n1", "new"), node("n20", "more")], vectors(2))
            store.delete(["n3", "n4"])
        with MemoryStore.open(path=index) as store:
            assert len(store) == 11
            store.delete([f"n{i}" for i in range(30)])
        with MemoryStore.open(path=index) as store:
            assert len(store) == 0
        assert not caplog.records

    def test_writes_of_a_killed_process_are_not_logged_as_damage(self, index: Path, caplog) -> None:
        if (child := os.fork()) == 0:
            MemoryStore.open(path=index).delete([f"n{i}" for i in range(12)])
            os._exit(0)
        os.waitpid(child, 0)
        with MemoryStore.open(path=index) as store:
            assert len(store) == 0
        assert not caplog.records

    def test_points_added_by_another_client_are_not_logged_as_damage(self, index: Path, caplog) -> None:
        with closing(QdrantClient(path=str(index))) as client:
            client.upsert("memories", [models.PointStruct(id=5, vector={FINETUNED: QUERY}, payload={})])
        with MemoryStore.open(path=index) as store:
            assert len(store) == 13
        assert not caplog.records
