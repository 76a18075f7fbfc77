from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from llama_index_ace_finetune.encoders.cache import VectorCache

TEXTS = ["one", "two", "three"]
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)


def opened(root: Path, fingerprint: str = "f" * 32, role: str = "query") -> VectorCache:
    return VectorCache(root, fingerprint=fingerprint, role=role, dimension=4)


def test_empty_cache(tmp_path: Path) -> None:
    held, vectors = opened(tmp_path / "none").lookup(TEXTS)
    assert held.tolist() == [False] * 3
    assert vectors is None
    assert not (tmp_path / "none").exists()


def test_lookup_keeps_the_order_of_texts(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.add(TEXTS, VECTORS)
    for fresh in (cache, opened(tmp_path)):
        held, vectors = fresh.lookup(["three", "unknown", "one"])
        assert held.tolist() == [True, False, True]
        assert vectors is not None
        assert np.array_equal(vectors, VECTORS[[2, 0]])
        assert len(fresh) == 3


def test_lookup_across_shards_keeps_the_order(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    for text, vector in zip(TEXTS, VECTORS, strict=True):
        cache.add([text], vector[None])
    cache.add([], np.empty((0, 4), np.float32))
    _, vectors = opened(tmp_path).lookup(["two", "three", "one", "two"])
    assert vectors is not None
    assert np.array_equal(vectors, VECTORS[[1, 2, 0, 1]])


def test_fingerprints_and_roles_are_separate(tmp_path: Path) -> None:
    opened(tmp_path, "a" * 32).add(["one"], VECTORS[:1])
    opened(tmp_path, "b" * 32).add(["one"], VECTORS[1:2])
    opened(tmp_path, "a" * 32, "document").add(["one"], VECTORS[2:])
    for row, (fingerprint, role) in enumerate([("a" * 32, "query"), ("b" * 32, "query"), ("a" * 32, "document")]):
        _, vectors = opened(tmp_path, fingerprint, role).lookup(["one"])
        assert vectors is not None
        assert np.array_equal(vectors, VECTORS[row : row + 1])
    assert not opened(tmp_path, "c" * 32).lookup(["one"])[0].any()


@pytest.mark.parametrize("kind", ["vectors", "keys"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"garbage", None], ids=["empty", "header", "garbage", "gone"])
def test_damaged_shard_is_a_miss(tmp_path: Path, kind: str, content: bytes | None) -> None:
    opened(tmp_path).add(["good"], VECTORS[:1])
    folder = tmp_path / ("f" * 32) / "query"
    before = set(folder.iterdir())
    opened(tmp_path).add(["bad"], VECTORS[1:2])
    (file,) = (path for path in set(folder.iterdir()) - before if f".{kind}." in path.name)
    file.unlink() if content is None else file.write_bytes(content)
    cache = opened(tmp_path)
    assert cache.lookup(["bad", "good"])[0].tolist() == [False, True]
    cache.add(["bad"], VECTORS[2:])
    _, vectors = opened(tmp_path).lookup(["bad"])
    assert vectors is not None
    assert np.array_equal(vectors, VECTORS[2:])


def test_truncated_shard_is_a_miss(tmp_path: Path) -> None:
    opened(tmp_path).add(TEXTS, VECTORS)
    (file,) = (tmp_path / ("f" * 32) / "query").glob("*.vectors.npy")
    file.write_bytes(file.read_bytes()[:-8])
    assert not opened(tmp_path).lookup(TEXTS)[0].any()


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    opened(tmp_path).add(TEXTS, VECTORS)
    (file,) = (tmp_path / ("f" * 32) / "query").glob("*.vectors.npy")
    np.save(file, np.array([{}, {}, {}], dtype=object), allow_pickle=True)
    assert not opened(tmp_path).lookup(TEXTS)[0].any()


def test_shard_of_another_dimension_is_a_miss(tmp_path: Path) -> None:
    VectorCache(tmp_path, fingerprint="f" * 32, role="query", dimension=2).add(TEXTS[:2], VECTORS[:2, :2])
    opened(tmp_path).add(TEXTS[2:], VECTORS[2:])
    cache = opened(tmp_path)
    assert cache.lookup(TEXTS)[0].tolist() == [False, False, True]
    cache.add(TEXTS[:2], VECTORS[:2])
    _, vectors = opened(tmp_path).lookup(TEXTS)
    assert vectors is not None
    assert np.array_equal(vectors, VECTORS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vector_that_is_not_finite_is_a_miss(tmp_path: Path, value: float) -> None:
    broken = VECTORS.copy()
    broken[1, 2] = value
    opened(tmp_path).add(TEXTS, broken)
    held, vectors = opened(tmp_path).lookup([*TEXTS, "unknown"])
    assert held.tolist() == [True, False, True, False]
    assert vectors is not None
    assert np.array_equal(vectors, VECTORS[[0, 2]])
    held, vectors = opened(tmp_path).lookup(["two"])
    assert vectors is None
    assert held.tolist() == [False]


def test_concurrent_writes_of_the_same_shard(tmp_path: Path) -> None:
    caches = [opened(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            list(pool.map(lambda cache: cache.add(TEXTS, VECTORS), caches))
    held, vectors = opened(tmp_path).lookup(TEXTS)
    assert held.all()
    assert np.array_equal(vectors, VECTORS)
    assert not list((tmp_path / ("f" * 32) / "query").glob(".*"))


def test_texts_with_lone_surrogates_have_keys(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.add(["a\ud800"], VECTORS[:1])
    assert cache.lookup(["a\ud800", "a"])[0].tolist() == [True, False]
