"""IVFIndex against exhaustive search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.ann.binary_quantization import binary_codes, hamming_distances
from llama_index_ace_finetune.stores.ann.id_map import IdMap, IdMapWriter
from llama_index_ace_finetune.stores.ann.ivf import MANIFEST, IVFIndex
from llama_index_ace_finetune.stores.ann.ivf_builder import IVFBuilder
from llama_index_ace_finetune.stores.ann.kmeans import nearest_centroid, train_centroids
from llama_index_ace_finetune.stores.ann.scalar_quantization import int8_scores, quantise, score_errors

COUNT, DIMENSION = 3000, 24


def grouped(count: int, seed: int) -> np.ndarray:
    """Unit vectors around forty directions, the same for every seed."""
    topics = np.random.default_rng(0).standard_normal((40, DIMENSION))
    rng = np.random.default_rng(seed)
    rows = topics[rng.integers(0, 40, count)] + 0.6 * rng.standard_normal((count, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = grouped(COUNT, 1), grouped(60, 2)


def build(folder: Path, vectors: np.ndarray, *, batch: int = 700, recall: float = 0.99) -> IVFIndex:
    folder.mkdir()
    with IVFBuilder(folder, vectors.shape[1], recall=recall) as builder:
        for start in range(0, len(vectors), batch):
            rows = vectors[start : start + batch]
            numbers = range(start, start + len(rows))
            builder.add(list(numbers), [f"id {number:04}" for number in numbers], rows)
    return IVFIndex(folder)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> IVFIndex:
    return build(tmp_path_factory.mktemp("index") / "index", VECTORS)


def exact(query: np.ndarray, k: int, rows: np.ndarray | None = None) -> list[tuple[str, float]]:
    rows = np.arange(COUNT) if rows is None else rows
    wide = query.astype(np.float64)
    cosines = VECTORS[rows].astype(np.float64) @ (wide / np.linalg.norm(wide))
    hits = [(f"id {row:04}", round(float(cosine), 6)) for row, cosine in zip(rows, cosines, strict=True)]
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]


class TestScalarQuantization:
    def test_by_hand(self) -> None:
        codes, scales = quantise(np.array([[1.27, -0.635, 0.0], [0, 0, 0]], np.float32))
        assert codes.tolist() == [[127, -64, 0], [0, 0, 0]]  # 63.5 rounds to even
        assert scales == pytest.approx([0.01, 0])
        assert int8_scores(codes, scales, np.array([1, 1, 5], np.float32)) == pytest.approx([0.63, 0])
        assert score_errors(scales) == pytest.approx([0.01 / 12**0.5, 0])

    @given(arrays(np.float32, st.tuples(st.integers(1, 100), st.just(5)), elements=st.floats(-3, 3, width=16)))
    def test_error_is_at_most_half_a_step(self, vectors: np.ndarray) -> None:
        codes, scales = quantise(vectors)
        assert np.all(np.abs(codes * scales[:, None] - vectors) <= 0.5 * scales[:, None] + 1e-6)
        query = np.array([1, -2, 0.5, 0, 3], np.float32)
        assert int8_scores(codes, scales, query) == pytest.approx((codes * scales[:, None]) @ query, abs=1e-4)

    def test_score_errors_match_the_actual_errors(self) -> None:
        codes, scales = quantise(VECTORS)
        off = np.array([int8_scores(codes, scales, query) - VECTORS @ query for query in QUERIES])
        assert 0.8 < off.std() / score_errors(scales).mean() < 1.2


class TestBinaryQuantization:
    def test_by_hand(self) -> None:
        mean = np.array([0, 1, 0], np.float32)
        codes = binary_codes(np.array([[1, 2, -1], [1, 0, 1], [-1, 0, -1]], np.float32), mean)
        assert codes.shape == (1, 3)
        query = binary_codes(np.array([[2, 2, -2]], np.float32), mean)
        assert hamming_distances(codes, [slice(0, 3)], query).tolist() == [0, 2, 2]
        assert hamming_distances(codes, [slice(2, 3), slice(0, 1), slice(1, 1)], query).tolist() == [2, 0]
        assert hamming_distances(codes, [], query).tolist() == []

    @pytest.mark.parametrize("dimension", [1, 63, 64, 65, 384])
    @pytest.mark.parametrize("numpy", [1, 2])
    def test_equals_counting(self, dimension: int, numpy: int, monkeypatch: pytest.MonkeyPatch) -> None:
        if numpy == 1:
            monkeypatch.delattr(np, "bitwise_count", raising=False)
        rows, query = np.random.default_rng(0).standard_normal((2, 500, dimension)).astype(np.float32)
        mean = np.full(dimension, 0.1, np.float32)
        codes, asked = binary_codes(rows, mean), binary_codes(query[:1], mean)
        expected = ((rows > 0.1) != (query[0] > 0.1)).sum(axis=1)
        assert hamming_distances(codes, [slice(0, 200), slice(200, 500)], asked).tolist() == expected.tolist()


class TestCentroids:
    def test_each_cluster_gets_a_centroid(self) -> None:
        groups = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
        centroids = train_centroids(groups, 4, rng=np.random.default_rng(1), rounds=20)
        assert np.linalg.norm(centroids, axis=1) == pytest.approx(np.ones(4))
        lists = nearest_centroid(groups, centroids)
        assert all(len(set(lists[start : start + 50])) == 1 for start in range(0, 200, 50))

    def test_as_many_centroids_as_vectors(self) -> None:
        vectors = np.eye(3, dtype=np.float32)
        centroids = train_centroids(vectors, 3, rng=np.random.default_rng(0))
        assert sorted(nearest_centroid(vectors, centroids)) == [0, 1, 2]


class TestIdMap:
    def test_integers_uuids_and_any_node_ids(self, tmp_path: Path) -> None:
        uuid = "00000000-0000-0000-0000-000000000005"
        points = [7, uuid, 5, 2**64 - 1]
        writer = IdMapWriter(tmp_path)
        writer.add(points[:3], ["a", "", "größe"])
        writer.add([], [])
        writer.add(points[3:], ["\ud800 half"])
        writer.close()
        id_map = IdMap(tmp_path)
        assert len(id_map) == 4
        assert id_map.rows([5, uuid, 2**64 - 1, 6, 7]).tolist() == [2, 1, 3, -1, 0]
        assert id_map.node_ids(np.array([3, 0, 1, 2])) == ["\ud800 half", "a", "", "größe"]
        assert id_map.rows([]).tolist() == []

    def test_no_rows(self, tmp_path: Path) -> None:
        IdMapWriter(tmp_path).close()
        id_map = IdMap(tmp_path)
        assert len(id_map) == 0
        assert id_map.rows([1]).tolist() == [-1]


class TestSearch:
    def test_recall_with_few_lists(self, index: IVFIndex) -> None:
        n_lists = round(COUNT**0.5)
        assert index.info.count == len(index) == COUNT
        assert index.info.probes < n_lists / 2
        assert index.info.recall >= 0.99
        found = [{name for name, _ in index.search(query, 10)} for query in QUERIES]
        expected = [{name for name, _ in exact(query, 10)} for query in QUERIES]
        assert np.mean([len(a & b) / 10 for a, b in zip(found, expected, strict=True)]) >= 0.97

    def test_cosines_are_exact_and_sorted(self, index: IVFIndex) -> None:
        for query in QUERIES[:20]:
            hits = index.search(3 * query, 10)
            cosines = dict(exact(query, COUNT))
            assert [score for _, score in hits] == pytest.approx([cosines[name] for name, _ in hits], abs=2e-6)
            assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))

    def test_allowed_rows_are_all_compared(self, index: IVFIndex) -> None:
        rows = np.arange(5, COUNT, 7)
        deleted = np.zeros(COUNT, np.bool_)
        deleted[rows[::2]] = True
        for query in QUERIES[:10]:
            assert index.search(query, 15, rows_allowed=rows) == exact(query, 15, rows)
            assert index.search(query, 15, rows_allowed=rows, deleted=deleted) == exact(query, 15, rows[1::2])
        assert index.search(QUERIES[0], 5, rows_allowed=np.empty(0, np.int64)) == []

    def test_more_hits_than_the_nearest_lists_hold(self, index: IVFIndex) -> None:
        assert index.search(QUERIES[0], COUNT + 5) == exact(QUERIES[0], COUNT)

    def test_remaining_rows_are_found_if_most_are_deleted(self, index: IVFIndex) -> None:
        left = np.arange(0, COUNT, 400)
        deleted = np.ones(COUNT, np.bool_)
        deleted[left] = False
        assert index.search(QUERIES[3], 4, deleted=deleted) == exact(QUERIES[3], 4, left)
        assert index.search(QUERIES[3], 4, deleted=np.ones(COUNT, np.bool_)) == []

    def test_zero_query_scores_zero(self, index: IVFIndex) -> None:
        assert {score for _, score in index.search(np.zeros(DIMENSION, np.float32), 5)} == {0.0}

    def test_equal_vectors_are_ordered_by_id(self, tmp_path: Path) -> None:
        same = np.tile(VECTORS[:1], (500, 1))
        index = build(tmp_path / "same", same)
        assert [name for name, _ in index.search(same[0], 3)] == ["id 0000", "id 0001", "id 0002"]

    def test_unclustered_vectors_need_most_lists(self, tmp_path: Path) -> None:
        rows = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        index = build(tmp_path / "noise", rows)
        assert index.info.probes > 0.5 * round(2000**0.5)
        assert index.info.recall >= 0.99

    @settings(max_examples=25)
    @given(count=st.integers(1, 40), k=st.integers(1, 45), seed=st.integers(0, 99))
    def test_small_sets_are_exact(
        self, tmp_path_factory: pytest.TempPathFactory, count: int, k: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.integers(-2, 3, (count, 3)).astype(np.float32)
        rows[np.abs(rows).sum(axis=1) == 0, 0] = 1
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        index = build(tmp_path_factory.mktemp("small") / "index", rows, batch=9)
        query = rows[0] + np.float32(0.1)
        wide = query.astype(np.float64)
        scores = [round(float(score), 6) for score in rows.astype(np.float64) @ (wide / np.linalg.norm(wide))]
        best = sorted(range(count), key=lambda row: (-scores[row], row))[: max(k, 2)]
        assert [name for name, _ in index.search(query, max(k, 2))] == [f"id {row:04}" for row in best]


class TestBadInput:
    def test_no_vectors(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="There are no vectors"), IVFBuilder(tmp_path, 4):
            pass

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"inverted_file.json.* does not exist; delete that folder"):
            IVFIndex(tmp_path)

    @pytest.mark.parametrize("file", ["codes.npy", "signs.npy", "keys.npy", "inverted_file.json", "bounds.npy"])
    def test_truncated_file_is_refused(self, index: IVFIndex, tmp_path: Path, file: str) -> None:
        folder = self.copy(index, tmp_path)
        (folder / file).write_bytes((folder / file).read_bytes()[:20])
        with pytest.raises(StoreError, match="delete that folder"):
            IVFIndex(folder)

    def test_truncated_vectors_are_refused(self, index: IVFIndex, tmp_path: Path) -> None:
        folder = self.copy(index, tmp_path)
        (folder / "vectors.float32").write_bytes(b"1234")
        with pytest.raises(StoreError, match="are incomplete"):
            IVFIndex(folder)

    def test_other_format_version_is_refused(self, index: IVFIndex, tmp_path: Path) -> None:
        folder = self.copy(index, tmp_path)
        content = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**content, "format_version": 99}))
        with pytest.raises(StoreError, match="another format version"):
            IVFIndex(folder)

    def copy(self, index: IVFIndex, to: Path) -> Path:
        return Path(shutil.copytree(index.folder, to / "copy"))
