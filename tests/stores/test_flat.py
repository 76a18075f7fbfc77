"""FlatIndex against a brute-force search, after any sequence of writes."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.evaluation.systems import EncodedSet, EvaluationSet, dense_system
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.stores.ann.flat import FlatIndex

DIMENSION = 4
POINT = st.integers(0, 20).map(str)
STEP = st.one_of(
    st.tuples(st.just("put"), st.lists(POINT, min_size=1, max_size=8, unique=True)),
    st.tuples(st.just("drop"), st.lists(POINT, max_size=8)),
)


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.integers(-2, 3, (count, DIMENSION)).astype(np.float32)  # few directions, so that ties are common
    rows[np.abs(rows).sum(axis=1) == 0, 0] = 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@settings(max_examples=60)
@given(steps=st.lists(STEP, max_size=12), k=st.integers(1, 25), seed=st.integers(0, 99), allowed=st.sets(POINT))
def test_equals_brute_force(steps: list, k: int, seed: int, allowed: set[str]) -> None:
    rng = np.random.default_rng(seed)
    nearest, existing = FlatIndex(DIMENSION), {}
    for action, points in steps:
        if action == "put":
            rows = unit(rng, len(points))
            nearest.upsert(points, [f"id {point}" for point in points], rows)
            existing.update(zip(points, rows, strict=True))
        else:
            nearest.delete(points)
            for point in points:
                existing.pop(point, None)
    assert len(nearest) == len(existing)
    queries = unit(rng, 3)
    for only_points in (None, frozenset(allowed)):
        for query, hits in zip(queries, nearest.search(queries, k, allowed=only_points), strict=True):
            scores = {
                f"id {p}": float(row @ query) for p, row in existing.items() if only_points is None or p in only_points
            }
            expected = sorted(scores, key=lambda name: (-round(scores[name], 5), name))[:k]
            assert sorted(round(scores[name], 5) for name, _ in hits) == sorted(
                round(scores[name], 5) for name in expected
            )
            assert [round(score, 4) for _, score in hits] == sorted((round(s, 4) for _, s in hits), reverse=True)
            assert np.allclose([score for _, score in hits], [scores[name] for name, _ in hits], atol=1e-5)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), step=st.sampled_from([0.0, 1e-7, 4e-7, 1e-6]))
def test_the_evaluation_orders_close_cosines_as_the_index_does(seed: int, step: float) -> None:
    """Queries have length 1 up to rounding, and each vector has neighbours whose cosines differ by about `step`."""
    rng = np.random.default_rng(seed)
    apart = np.repeat(rng.normal(size=(10, 24)), 3, axis=0) + step * rng.normal(size=(30, 24))
    corpus, queries = unit_rows(apart.astype(np.float32)), unit_rows(rng.normal(size=(5, 24)).astype(np.float32))
    order = rng.permutation(30)
    ids = [f"m{row:02}" for row in range(30)]
    index = FlatIndex(24)
    index.upsert([ids[row] for row in order], [ids[row] for row in order], corpus[order])
    names = tuple(f"q{row}" for row in range(5))
    data = EvaluationSet(names, names, tuple(ids), tuple(ids), tuple(np.array([row]) for row in range(5)))
    system = dense_system(data, EncodedSet("model", queries, corpus), name="dense", depth=8)
    ranked = zip(system.rankings.tolist(), system.scores.tolist(), strict=True)
    evaluated = [[(ids[row], score) for row, score in zip(*one, strict=True)] for one in ranked]
    assert index.search(queries, 8) == evaluated
    assert [index.search(query[None], 8)[0] for query in queries] == evaluated


def test_ties_at_the_kth_hit_are_ordered_by_id() -> None:
    nearest = FlatIndex(DIMENSION)
    same = np.tile(np.eye(DIMENSION, dtype=np.float32)[0], (5, 1))
    nearest.upsert(list("vwxyz"), list("ecadb"), same)
    assert [name for name, _ in nearest.search(same[:1], 3)[0]] == ["a", "b", "c"]


def test_zero_query_scores_zero() -> None:
    nearest = FlatIndex(DIMENSION)
    nearest.upsert(["p"], ["i"], np.eye(DIMENSION, dtype=np.float32)[:1])
    assert nearest.search(np.zeros((1, DIMENSION), np.float32), 1) == [[("i", 0.0)]]


def test_searching_while_another_thread_writes() -> None:
    rng = np.random.default_rng(0)
    nearest, steady = FlatIndex(DIMENSION), unit(rng, 50)
    nearest.upsert([f"s{i}" for i in range(50)], [f"s{i:02}" for i in range(50)], steady)
    stop, failures = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            nearest.upsert(["t"] + [f"t{i}" for i in range(30)], ["t"] * 31, unit(rng, 31))
            nearest.delete([f"t{i}" for i in range(30)])

    thread = threading.Thread(target=write)
    thread.start()
    query = steady[:1]
    best = float((steady @ query[0]).max())
    try:
        for _ in range(300):
            hits = nearest.search(query, 200)[0]
            id_map = [name for name, _ in hits if name.startswith("s")]
            if len(set(id_map)) != 50 or abs(hits[0][1] - best) > 1e-5:
                failures.append(hits)
    finally:
        stop.set()
        thread.join()
    assert not failures
