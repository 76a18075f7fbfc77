"""UpdatableIVF, and LocalVectorIndex with enough points for one."""

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

from llama_index_ace_finetune.stores.ann.ivf import IVFIndex
from llama_index_ace_finetune.stores.ann.ivf_builder import IVFBuilder
from llama_index_ace_finetune.stores.ann.updatable_ivf import UpdatableIVF
from llama_index_ace_finetune.stores.local_index import LocalVectorIndex
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, PointKey

DIMENSION, LIMIT = 6, 50
POINT = st.integers(0, 45)
STEP = st.tuples(st.sampled_from(["put", "drop"]), st.lists(POINT, max_size=8, unique=True))


def name(point: PointKey) -> str:
    return f"id {point}" if isinstance(point, int) else point


def is_best(hits: list[tuple[str, float]], existing: dict[PointKey, np.ndarray], query: np.ndarray, k: int) -> bool:
    """Whether these are the k best in order, up to rounding."""
    cosines = {name(p): float(v.astype(np.float64) @ query.astype(np.float64)) for p, v in existing.items()}
    best = sorted(cosines.values(), reverse=True)[:k]
    own = [cosines[found] for found, _ in hits]
    return len(set(hits)) == len(best) and np.allclose([own, [s for _, s in hits]], [best, best], rtol=0, atol=2e-6)


@pytest.fixture(scope="module")
def ivf(tmp_path_factory: pytest.TempPathFactory) -> IVFIndex:
    folder = tmp_path_factory.mktemp("file")
    with IVFBuilder(folder, DIMENSION) as builder:
        builder.add(list(range(30)), [name(point) for point in range(30)], unit_rows(30, DIMENSION))
    return IVFIndex(folder)


@settings(max_examples=100)
@given(steps=st.lists(STEP, max_size=10), seed=st.integers(0, 99), allowed=st.sets(POINT))
def test_equals_brute_force_through_any_writes(
    ivf: IVFIndex, steps: list[tuple[str, list[int]]], seed: int, allowed: set[int]
) -> None:
    vectors, existing = UpdatableIVF(ivf), dict(enumerate(unit_rows(30, DIMENSION)))
    for number, (action, points) in enumerate(steps):
        if action == "put":
            rows = unit_rows(len(points), DIMENSION, seed=100 * seed + number)
            vectors.upsert(points, [name(point) for point in points], rows)
            existing.update(zip(points, rows, strict=True))
        else:
            vectors.delete(points)
            for point in points:
                existing.pop(point, None)
    assert len(vectors) == len(existing)
    some = {point: row for point, row in existing.items() if point in allowed}
    queries = unit_rows(3, DIMENSION, seed=seed)
    for query, hits, chosen in zip(
        queries, vectors.search(queries, 5), vectors.search(queries, 5, allowed=frozenset(allowed)), strict=True
    ):
        assert is_best(hits, existing, query, 5)
        assert is_best(chosen, some, query, 5)


def test_unchanged_rows_of_the_ivf_index_are_used(ivf: IVFIndex) -> None:
    rows = unit_rows(30, DIMENSION)
    now = np.concatenate([rows[3:], unit_rows(2, DIMENSION, seed=1)])
    now[0] = -now[0]
    points, ids = list(range(3, 32)), [name(point) for point in range(3, 32)]
    ids[5] = "renamed"
    vectors = UpdatableIVF.refreshed(ivf, [(points[:10], ids[:10], now[:10]), (points[10:], ids[10:], now[10:])])
    assert (len(vectors), vectors.delta_size) == (29, 4)  # one inverted, one renamed, two new
    query = unit_rows(1, DIMENSION, seed=7)
    expected = sorted(zip(ids, (now @ query[0]).tolist(), strict=True), key=lambda hit: -hit[1])
    assert [found for found, _ in vectors.search(query, 29)[0]] == [found for found, _ in expected]


def test_search_during_upserts_of_another_thread_misses_nothing(ivf: IVFIndex) -> None:
    vectors, rows = UpdatableIVF(ivf), unit_rows(30, DIMENSION)
    stop, missed = threading.Event(), []

    def replace() -> None:
        while not stop.is_set():
            vectors.upsert(list(range(10)), [name(point) for point in range(10)], rows[:10])

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
    """An embedded collection with a local index that compares at most fifty vectors."""

    def __init__(self, path: Path | None) -> None:
        self.client = QdrantClient(":memory:") if path is None else QdrantClient(path=str(path))
        self.folder = None if path is None else path / "collection" / "c" / "vectors-v"
        if not self.client.collection_exists("c"):
            size = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
            self.client.create_collection("c", vectors_config={"v": size})
        self.index = LocalVectorIndex(self.client, "c", "v", dimension=DIMENSION, location="here", exact_up_to=LIMIT)

    def upsert(self, numbers: range, seed: int = 0) -> None:
        rows = unit_rows(len(numbers), DIMENSION, seed)
        self.client.upsert(
            "c",
            [
                models.PointStruct(id=point(number), vector={"v": row.tolist()}, payload={NODE_ID_FIELD: str(number)})
                for number, row in zip(numbers, rows, strict=True)
            ],
        )

    def existing(self) -> dict[str, np.ndarray]:
        points, _ = self.client.scroll("c", limit=10_000, with_vectors=True)
        return {point.payload[NODE_ID_FIELD]: np.array(point.vector["v"]) for point in points}

    def agrees(self) -> bool:
        """Whether searches equal an exhaustive search over Qdrant's vectors."""
        queries = unit_rows(5, DIMENSION, seed=11)
        existing = self.existing()
        return all(
            is_best(hits, existing, query, 20)
            for query, hits in zip(queries, self.index.search(queries, 20), strict=True)
        )


def point(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


class TestLocalVectorIndex:
    @pytest.mark.parametrize("kind", ["memory", "folder"])
    def test_index_is_up_to_date_from_few_points_to_many(self, kind: str, tmp_path: Path) -> None:
        here = Collection(tmp_path / "store" if kind == "folder" else None)
        for numbers, seed in ((range(40), 0), (range(30, 90), 1), (range(85, 100), 2), (range(90, 300), 3)):
            here.upsert(numbers, seed)
            assert here.agrees()
        here.client.delete("c", models.PointIdsList(points=[point(number) for number in range(0, 300, 3)]))
        assert len(here.existing()) == 200
        assert here.agrees()
        here.client.delete(
            "c", models.FilterSelector(filter=models.Filter(must=[models.HasIdCondition(has_id=[point(1)])]))
        )
        assert len(here.existing()) == 199
        assert here.agrees()
        allowed = frozenset(point(number) for number in range(100, 130))
        hits = here.index.search(unit_rows(1, DIMENSION), 50, allowed=allowed)[0]
        assert {found for found, _ in hits} == {str(number) for number in range(100, 130) if number % 3}
        here.client.close()

    def test_no_ivf_index_up_to_the_limit(self, tmp_path: Path) -> None:
        here = Collection(tmp_path / "store")
        here.upsert(range(LIMIT))
        assert here.agrees()
        assert not here.folder.exists()
        here.upsert(range(LIMIT, LIMIT + 1))
        assert here.agrees()
        assert here.folder.is_dir()
        here.client.close()

    def test_next_process_reuses_the_ivf_index(self, tmp_path: Path) -> None:
        first = Collection(tmp_path / "store")
        first.upsert(range(120))
        assert first.agrees()
        made = (first.folder / "inverted_file.json").stat().st_mtime_ns
        first.upsert(range(100, 140), seed=1)  # without a local index that sees it
        first.client.close()
        second = Collection(tmp_path / "store")
        assert second.agrees()
        assert (second.folder / "inverted_file.json").stat().st_mtime_ns == made
        second.client.close()

    @pytest.mark.parametrize("harm", ["cut", "another dimension"])
    def test_damaged_ivf_index_is_rebuilt(self, harm: str, tmp_path: Path) -> None:
        first = Collection(tmp_path / "store")
        first.upsert(range(120))
        assert first.agrees()
        first.client.close()
        if harm == "cut":
            (first.folder / "codes.npy").write_bytes(b"")
        else:
            with IVFBuilder(first.folder, 2) as builder:
                builder.add([1], ["1"], unit_rows(1, 2))
        second = Collection(tmp_path / "store")
        assert second.agrees()
        assert IVFIndex(second.folder).info.count == 120
        second.client.close()

    def test_points_without_this_vector(self, tmp_path: Path) -> None:
        here = Collection(None)
        here.client.upsert("c", [models.PointStruct(id=number, vector={}) for number in range(LIMIT + 9)])
        assert here.index.search(unit_rows(1, DIMENSION), 3) == [[]]

    def test_ivf_index_is_deleted_with_the_collection(self, tmp_path: Path) -> None:
        here = Collection(tmp_path / "store")
        here.upsert(range(120))
        assert here.agrees()
        here.client.delete_collection("c")
        assert not here.folder.exists()
        here.client.close()
