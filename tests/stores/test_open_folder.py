"""Concurrent use of index folders: by stores, threads, processes, and read-only users."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_stores import NAMED_VECTORS, node, unit_rows, vectors
from helpers.words_embedding import words_retriever
from qdrant_client import QdrantClient

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore

QUERY = unit_rows(1, 8, seed=3)[0].tolist()
NOBODY = 65534


def in_child(work: Callable[[], object]) -> str:
    """Run `work` in a forked process; return its result, as text, or its error."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            said = str(work())
        except BaseException:
            said = traceback.format_exc()
        os.write(write, said.encode()[-9000:])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as error:
        work()
    return str(error.value)


def try_to_open(path: Path) -> str:
    try:
        MemoryStore.open(path=path).close()
    except StoreError as error:
        return str(error)
    return "opened"


def write(path: Path, count: int = 12) -> Path:
    with MemoryStore.create(NAMED_VECTORS, path=path) as store:
        store.upsert([node(f"n{i}", f"text {i}") for i in range(count)], vectors(count))
    return path


class TestSharing:
    def test_folder_opened_twice_is_one_store(self, tmp_path: Path) -> None:
        first = MemoryStore.open(path=write(tmp_path / "index"))
        (tmp_path / "link").symlink_to(tmp_path / "index")
        second = MemoryStore.open(path=tmp_path / "link")
        second.search(FINETUNED, QUERY, 3)
        first.upsert([node("new", "new")], {name: np.asarray([np.eye(named_vector.dimension)[0]], np.float32)
                                           for name, named_vector in NAMED_VECTORS.items()})  # fmt: skip
        assert second.search(FINETUNED, np.eye(8)[0].tolist(), 1)[0][0] == "new"
        first.close()
        first.close()
        assert len(second) == 13
        assert "it was closed" in refused(lambda: first.search(FINETUNED, QUERY, 3))
        assert "open in another process" in in_child_that_opened_nothing(tmp_path / "index")
        second.close()
        assert in_child(lambda: try_to_open(tmp_path / "index")) == "opened"

    def test_store_without_users_is_closed(self, tmp_path: Path) -> None:
        store = MemoryStore.open(path=write(tmp_path / "index"))
        del store
        gc.collect()
        with closing(QdrantClient(path=str(tmp_path / "index"))) as client:  # raises if the folder is locked
            assert client.count("memories").count == 12

    def test_replaced_folder_is_another_store(self, tmp_path: Path) -> None:
        with MemoryStore.open(path=write(tmp_path / "index")) as before:
            (tmp_path / "index").rename(tmp_path / "old")
            write(tmp_path / "index", 3)
            with MemoryStore.open(path=tmp_path / "index") as after:
                assert (len(before), len(after)) == (12, 3)

    def test_threads_open_and_close_the_same_folder(self, tmp_path: Path) -> None:
        write(tmp_path / "index")
        failed: list[BaseException] = []

        def use() -> None:
            try:
                for _ in range(15):
                    with MemoryStore.open(path=tmp_path / "index") as store:
                        assert len(store.search(FINETUNED, QUERY, 3)) == 3
            except BaseException as error:
                failed.append(error)

        together([use] * 4)
        assert not failed
        assert in_child(lambda: try_to_open(tmp_path / "index")) == "opened"


class TestWriters:
    @pytest.mark.parametrize("writers", [4, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 2, 8))])
    @pytest.mark.parametrize("theirs", [False, True], ids=["own client", "given client"])
    def test_writers_in_several_threads_lose_nothing(self, tmp_path: Path, writers: int, theirs: bool) -> None:
        MemoryStore.create(NAMED_VECTORS, path=tmp_path).close()
        client = QdrantClient(path=str(tmp_path), force_disable_check_same_thread=True) if theirs else None
        stores = [
            MemoryStore.attach(client, "memories") if client else MemoryStore.open(path=tmp_path)
            for _ in range(writers)
        ]
        failed: list[BaseException] = []

        def work(number: int) -> None:
            for i in range(80 // writers):
                name = f"w{number}-{i}"
                try:
                    stores[number].upsert([node(name, f"text {name}")], vectors(1, seed=i))
                    assert name in dict(stores[number].search(FINETUNED, vectors(1, seed=i)[FINETUNED][0].tolist(), 99))
                    if i % 5 == 4:
                        stores[number].delete([name])
                except BaseException as error:
                    failed.append(error)

        together([lambda number=number: work(number) for number in range(writers)])
        assert not failed
        existing = contents(stores[0])
        for store in stores:
            store.close()
        if client:
            client.close()
        with MemoryStore.open(path=tmp_path) as store:
            again = contents(store)
        assert len(again) == 64
        for identifier, (payload, vector) in again.items():
            assert payload == existing[identifier][0]
            for name, row in vector.items():
                np.testing.assert_allclose(row, existing[identifier][1][name], atol=1e-6)


class TestReadOnly:
    @pytest.fixture
    def index(self) -> Iterator[Path]:
        """An index that an unprivileged user may read, in a folder that this user can reach."""
        if os.geteuid():
            pytest.skip("only root can become a user who may not write")
        folder = Path(tempfile.mkdtemp())
        folder.chmod(0o755)
        yield write(folder / "index")
        shutil.rmtree(folder)

    def test_read_only_folder_is_searched_and_unchanged(self, index: Path) -> None:
        for file in (index, *index.rglob("*")):
            file.chmod(0o555 if file.is_dir() else 0o444)
        before = state(index)

        def work() -> str:
            drop_privileges()
            with MemoryStore.open(path=index) as first, MemoryStore.open(path=index) as second:
                found = first.search(FINETUNED, QUERY, 3)
                assert found == second.search(FINETUNED, QUERY, 3)
                said = refused(lambda: first.upsert([node("x")], vectors(1)))
                said += refused(lambda: first.delete(["n1"]))
                assert len(first) == 12
            return said + str(len(found))

        said = in_child(work)
        assert said.count("is read-only; copy it") == 2
        assert said.endswith("3")
        assert state(index) == before

    def test_folder_without_a_lock_file_is_read(self, index: Path) -> None:
        (index / ".lock").unlink()
        before = state(index)

        def work() -> int:
            drop_privileges()
            with MemoryStore.open(path=index) as store:
                return len(store)

        assert in_child(work) == "12"
        assert state(index) == before

    def test_several_processes_read_a_read_only_folder(self, index: Path) -> None:
        def work() -> str:
            drop_privileges()
            with MemoryStore.open(path=index) as store:
                return f"{len(store)} {in_child_that_opened_nothing(index)}"

        assert in_child(work) == "12 opened"
        with MemoryStore.open(path=index):
            assert "open in another process" in in_child(lambda: (drop_privileges(), forget(), try_to_open(index)))

    @pytest.mark.parametrize("name", ["", "meta.json", "collection", "collection/memories/storage.sqlite"])
    def test_unreadable_folder_is_one_sentence(self, index: Path, name: str) -> None:
        (index / name).chmod(0)
        said = in_child(lambda: (drop_privileges(), try_to_open(index))[1])
        assert str(index) in said
        assert "\n" not in said
        assert said != "opened"


class TestFork:
    def test_forked_child_searches_and_cannot_write(self, tmp_path: Path) -> None:
        with MemoryStore.open(path=write(tmp_path / "index")) as store:
            found = store.search(FINETUNED, QUERY, 3)

            def work() -> str:
                assert store.search(FINETUNED, QUERY, 3) == found
                with MemoryStore.open(path=tmp_path / "index") as again:
                    assert len(again) == 12
                said = refused(lambda: store.upsert([node("x")], vectors(1)))
                store.close()
                return said

            assert "opened before this process was forked" in in_child(work)
            store.upsert([node("y")], vectors(1))  # the parent can still write
            assert "open in another process" in in_child_that_opened_nothing(tmp_path / "index")
        with MemoryStore.open(path=tmp_path / "index") as store:
            assert len(store) == 13

    def test_child_forked_during_searches_and_writes_can_search(self, tmp_path: Path) -> None:
        stop = threading.Event()
        with MemoryStore.open(path=write(tmp_path / "index")) as store:

            def keep_on() -> None:
                while not stop.is_set():
                    store.upsert([node("n1", "text")], vectors(1))
                    store.search(FINETUNED, QUERY, 3)

            thread = threading.Thread(target=keep_on)
            thread.start()
            try:
                for _ in range(5):
                    assert in_child(lambda: len(store.search(FINETUNED, QUERY, 99))) == "12"
            finally:
                stop.set()
                thread.join()

    def test_forked_child_searches_asynchronously(self) -> None:
        retriever = words_retriever([node(f"n{i}", f"memory {i} about alpha") for i in range(20)])
        asyncio.run(retriever.aretrieve("memory 3"))

        def work() -> int:
            assert len(retriever.retrieve("memory 5")) == 10
            return len(asyncio.run(asyncio.wait_for(retriever.aretrieve("memory 5"), 20)))

        assert in_child(work) == "10"
        retriever.close()


def in_child_that_opened_nothing(path: Path) -> str:
    """`try_to_open`, in a process that shares no store with this one."""
    return in_child(lambda: (forget(), try_to_open(path))[1])


def forget() -> None:
    from llama_index_ace_finetune.stores.qdrant import open_folder

    open_folder._OPEN.clear()


def drop_privileges() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def contents(store: MemoryStore) -> dict[Any, tuple[Any, Any]]:
    points, _ = store.client.scroll(store.collection, limit=999, with_vectors=True)
    return {point.id: (point.payload, point.vector) for point in points}


def state(folder: Path) -> dict[str, object]:
    return {
        str(file): (file.stat().st_mtime_ns, file.read_bytes() if file.is_file() else None)
        for file in (folder, *folder.rglob("*"))
    }
