from __future__ import annotations

import numpy as np

from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet


def examples(queries: int, corpus: int) -> IndexedExamples:
    return IndexedExamples(
        query_ids=tuple(f"q{i}" for i in range(queries)),
        queries=tuple(f"query {i}" for i in range(queries)),
        corpus_ids=tuple(f"m{i}" for i in range(corpus)),
        corpus=tuple(f"memory {i}" for i in range(corpus)),
        relevant=tuple(np.array([corpus - 1 - i, corpus - 1]) for i in range(queries)),
        negatives=tuple(np.array([0]) for _ in range(queries)),
    )


def test_pool_holds_positives_and_the_top_documents_of_the_base() -> None:
    dev = DevSet(examples(queries=3, corpus=500))
    rankings = np.array([[0, 1], [1, 2], [2, 3]], np.int32)
    found, queries, documents = dev.pooled(rankings)
    pool = found.examples
    assert queries.tolist() == [0, 1, 2]
    assert documents.tolist() == [0, 1, 2, 3, 497, 498, 499]
    assert pool.queries == ("query 0", "query 1", "query 2")
    assert pool.corpus_ids == ("m0", "m1", "m2", "m3", "m497", "m498", "m499")
    relevant = [[pool.corpus_ids[row] for row in rows] for rows in pool.relevant]
    assert relevant == [["m499", "m499"], ["m498", "m499"], ["m497", "m499"]]


def test_pool_that_saves_little_is_the_whole_dev_set() -> None:
    dev = DevSet(examples(queries=3, corpus=8))
    found, queries, documents = dev.pooled(np.array([[0, 1], [1, 2], [2, 3]], np.int32))
    assert found is dev
    assert (queries.tolist(), documents.tolist()) == ([0, 1, 2], list(range(8)))


def test_pool_samples_queries_by_seed() -> None:
    dev = DevSet(examples(queries=1000, corpus=100_000))
    rankings = np.arange(20_000, dtype=np.int32).reshape(1000, 20)
    (first, chosen, _), (again, _, _), (other, _, _) = (dev.pooled(rankings, seed=seed) for seed in (0, 0, 1))
    first, again, other = first.examples, again.examples, other.examples
    assert first.queries == tuple(f"query {row}" for row in chosen)
    assert len(first.queries) == 200
    assert first.query_ids == again.query_ids
    assert first.query_ids != other.query_ids
