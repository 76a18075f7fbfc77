"""What was written since an inverted file was made, and embedded stores that are large enough for one."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from helpers.small_stores import unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.stores.ann.ivf import InvertedFile
from llama_index_ace_finetune.stores.ann.ivf_builder import InvertedFileBuilder
from llama_index_ace_finetune.stores.ann.updatable_ivf import LargeVectors
from llama_index_ace_finetune.stores.local_index import VectorMirror
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, PointKey

DIMENSION, LIMIT = 6, 50
POINT = st.integers(0, 45)
STEP = st.tuples(st.sampled_from(["put", "drop"]), st.lists(POINT, max_size=8, unique=True))


def name(point: PointKey) -> str:
    return f"id {point}" if isinstance(point, int) else point


def is_best(hits: list[tuple[str, float]], held: dict[PointKey, np.ndarray], query: np.ndarray, k: int) -> bool:
    """Whether these are the k best in order, but for what rounding may exchange."""
    cosines = {name(p): float(v.astype(np.float64) @ query.astype(np.float64)) for p, v in held.items()}
    best = sorted(cosines.values(), reverse=True)[:k]
    own = [cosines[found] for found, _ in hits]
    return len(set(hits)) == len(best) and np.allclose([own, [s for _, s in hits]], [best, best], rtol=0, atol=2e-6)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> InvertedFile:
    folder = tmp_path_factory.mktemp("file")
    with InvertedFileBuilder(folder, DIMENSION) as builder:
        builder.add(list(range(30)), [name(point) for point in range(30)], unit_rows(30, DIMENSION))
    return InvertedFile(folder)


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(STEP, max_size=10), seed=st.integers(0, 99), allowed=st.sets(POINT))
def test_equals_brute_force_through_any_writes(
    file: InvertedFile, steps: list[tuple[str, list[int]]], seed: int, allowed: set[int]
) -> None:
    vectors, held = LargeVectors(file), dict(enumerate(unit_rows(30, DIMENSION)))
    for number, (action, points) in enumerate(steps):
        if action == "put":
            rows = unit_rows(len(points), DIMENSION, seed=100 * seed + number)
            vectors.put(points, [name(point) for point in points], rows)
            held.update(zip(points, rows, strict=True))
        else:
            vectors.drop(points)
            for point in points:
                held.pop(point, None)
    assert len(vectors) == len(held)
    some = {point: row for point, row in held.items() if point in allowed}
    queries = unit_rows(3, DIMENSION, seed=seed)
    for query, hits, chosen in zip(
        queries, vectors.search(queries, 5), vectors.search(queries, 5, allowed=frozenset(allowed)), strict=True
    ):
        assert is_best(hits, held, query, 5)
        assert is_best(chosen, some, query, 5)


def test_of_the_file_what_is_still_so_is_used(file: InvertedFile) -> None:
    rows = unit_rows(30, DIMENSION)
    now = np.concatenate([rows[3:], unit_rows(2, DIMENSION, seed=1)])
    now[0] = -now[0]
    points, ids = list(range(3, 32)), [name(point) for point in range(3, 32)]
    ids[5] = "renamed"
    vectors = LargeVectors.in_step(file, [(points[:10], ids[:10], now[:10]), (points[10:], ids[10:], now[10:])])
    assert (len(vectors), vectors.written_since) == (29, 4)  # turned round, renamed, two new
    query = unit_rows(1, DIMENSION, seed=7)
    expected = sorted(zip(ids, (now @ query[0]).tolist(), strict=True), key=lambda hit: -hit[1])
    assert [found for found, _ in vectors.search(query, 29)[0]] == [found for found, _ in expected]


def test_a_search_while_another_thread_replaces_misses_nothing(file: InvertedFile) -> None:
    vectors, rows = LargeVectors(file), unit_rows(30, DIMENSION)
    stop, missed = threading.Event(), []

    def replace() -> None:
        while not stop.is_set():
            vectors.put(list(range(10)), [name(point) for point in range(10)], rows[:10])

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(200):
            found = [hit for hit, _ in vectors.search(rows[:1], 30)[0]]
            if sorted(found) != sorted(name(point) for point in range(30)):
                missed.append(found)
    finally:
        stop.set()
        thread.join()
    assert not missed


class Collection:
    """An embedded collection with a mirror that compares at most fifty vectors."""

    def __init__(self, path: Path | None) -> None:
        self.client = QdrantClient(":memory:") if path is None else QdrantClient(path=str(path))
        self.folder = None if path is None else path / "collection" / "c" / "vectors-v"
        if not self.client.collection_exists("c"):
            size = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
            self.client.create_collection("c", vectors_config={"v": size})
        self.mirror = VectorMirror(self.client, "c", "v", dimension=DIMENSION, where="here", exact_up_to=LIMIT)

    def put(self, numbers: range, seed: int = 0) -> None:
        rows = unit_rows(len(numbers), DIMENSION, seed)
        self.client.upsert(
            "c",
            [
                models.PointStruct(id=point(number), vector={"v": row.tolist()}, payload={NODE_ID_FIELD: str(number)})
                for number, row in zip(numbers, rows, strict=True)
            ],
        )

    def held(self) -> dict[str, np.ndarray]:
        points, _ = self.client.scroll("c", limit=10_000, with_vectors=True)
        return {point.payload[NODE_ID_FIELD]: np.array(point.vector["v"]) for point in points}

    def agrees(self) -> bool:
        """Whether searches give what comparing all of Qdrant's vectors gives."""
        queries = unit_rows(5, DIMENSION, seed=11)
        held = self.held()
        return all(
            is_best(hits, held, query, 20) for query, hits in zip(queries, self.mirror.search(queries, 20), strict=True)
        )


def point(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


class TestMirror:
    @pytest.mark.parametrize("kind", ["memory", "folder"])
    def test_it_is_in_step_from_a_few_points_to_many(self, kind: str, tmp_path: Path) -> None:
        here = Collection(tmp_path / "store" if kind == "folder" else None)
        for numbers, seed in ((range(40), 0), (range(30, 90), 1), (range(85, 100), 2), (range(90, 300), 3)):
            here.put(numbers, seed)
            assert here.agrees()
        here.client.delete("c", models.PointIdsList(points=[point(number) for number in range(0, 300, 3)]))
        assert len(here.held()) == 200
        assert here.agrees()
        here.client.delete(
            "c", models.FilterSelector(filter=models.Filter(must=[models.HasIdCondition(has_id=[point(1)])]))
        )
        assert len(here.held()) == 199
        assert here.agrees()
        allowed = frozenset(point(number) for number in range(100, 130))
        hits = here.mirror.search(unit_rows(1, DIMENSION), 50, allowed=allowed)[0]
        assert {found for found, _ in hits} == {str(number) for number in range(100, 130) if number % 3}
        here.client.close()

    def test_up_to_the_limit_there_is_no_file(self, tmp_path: Path) -> None:
        here = Collection(tmp_path / "store")
        here.put(range(LIMIT))
        assert here.agrees()
        assert not here.folder.exists()
        here.put(range(LIMIT, LIMIT + 1))
        assert here.agrees()
        assert here.folder.is_dir()
        here.client.close()

    def test_the_next_process_goes_on_with_the_file(self, tmp_path: Path) -> None:
        first = Collection(tmp_path / "store")
        first.put(range(120))
        assert first.agrees()
        made = (first.folder / "inverted_file.json").stat().st_mtime_ns
        first.put(range(100, 140), seed=1)  # with nobody to see it
        first.client.close()
        second = Collection(tmp_path / "store")
        assert second.agrees()
        assert (second.folder / "inverted_file.json").stat().st_mtime_ns == made
        second.client.close()

    @pytest.mark.parametrize("harm", ["cut", "another dimension"])
    def test_a_file_that_cannot_be_used_is_made_again(self, harm: str, tmp_path: Path) -> None:
        first = Collection(tmp_path / "store")
        first.put(range(120))
        assert first.agrees()
        first.client.close()
        if harm == "cut":
            (first.folder / "codes.npy").write_bytes(b"")
        else:
            with InvertedFileBuilder(first.folder, 2) as builder:
                builder.add([1], ["1"], unit_rows(1, 2))
        second = Collection(tmp_path / "store")
        assert second.agrees()
        assert InvertedFile(second.folder).info.count == 120
        second.client.close()

    def test_points_without_this_vector(self, tmp_path: Path) -> None:
        here = Collection(None)
        here.client.upsert("c", [models.PointStruct(id=number, vector={}) for number in range(LIMIT + 9)])
        assert here.mirror.search(unit_rows(1, DIMENSION), 3) == [[]]

    def test_the_file_goes_with_the_collection(self, tmp_path: Path) -> None:
        here = Collection(tmp_path / "store")
        here.put(range(120))
        assert here.agrees()
        here.client.delete_collection("c")
        assert not here.folder.exists()
        here.client.close()
