from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.training.data.clustered_batches import ClusteredBatches


def topics(count: int, of_each: int) -> NDArray[np.float32]:
    """`count` topics at right angles, `of_each` rows in each, in turn."""
    random = np.random.default_rng(0)
    rows = np.tile(np.eye(count, dtype=np.float32), (of_each, 1))
    return unit_rows(rows + 0.01 * random.standard_normal(rows.shape).astype(np.float32))


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.integers(1, 12), st.integers(0, 3))
def test_each_query_comes_once_an_epoch(count: int, documents: int, batch: int, cluster: int, epoch: int) -> None:
    random = np.random.default_rng(count)
    vectors = unit_rows(random.standard_normal((count, 4)).astype(np.float32))
    about = random.integers(0, documents, count)
    batches = ClusteredBatches(vectors, about, batch_size=batch, cluster_size=cluster, seed=0)
    batches.set_epoch(epoch)
    found = list(batches)
    assert len(found) == len(batches)
    assert all(len(rows) == batch for rows in found[:-1])
    assert sorted(row for rows in found for row in rows) == list(range(count))


@pytest.mark.parametrize("cluster", [4, 8])
def test_neighbours_are_in_one_batch(cluster: int) -> None:
    batches = ClusteredBatches(topics(8, 8), np.arange(64), batch_size=8, cluster_size=cluster, seed=1)
    for rows in batches:
        _, sizes = np.unique(np.array(rows) % 8, return_counts=True)
        assert sizes.tolist() == [cluster] * (8 // cluster)


def test_queries_of_a_cluster_are_about_different_documents() -> None:
    # Eight topics of two documents, with four queries each: the nearest queries are about the same document.
    about = np.arange(64) % 16
    batches = ClusteredBatches(topics(8, 8), about, batch_size=2, cluster_size=2, seed=1)
    for rows in batches:
        assert len({int(about[row]) for row in rows}) == 2
        assert len({row % 8 for row in rows}) == 1


def test_many_documents_are_clustered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_index_ace_finetune.training.data.clustered_batches._BLOCK", 64)
    found = list(ClusteredBatches(topics(4, 64), np.arange(256), batch_size=8, cluster_size=8, seed=1))
    assert sorted(row for rows in found for row in rows) == list(range(256))
    alike = [np.unique(np.array(rows) % 4, return_counts=True)[1].max() for rows in found]
    assert np.mean(alike) > 6


def test_queries_are_independent_without_clusters() -> None:
    batches = ClusteredBatches(topics(8, 8), np.arange(64), batch_size=8, cluster_size=1, seed=1)
    assert max(np.unique(np.array(rows) % 8, return_counts=True)[1].max() for rows in batches) < 8


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = ClusteredBatches(topics(8, 8), np.arange(64), batch_size=8, cluster_size=4, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
