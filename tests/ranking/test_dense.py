from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llama_index_ace_finetune.ranking.dense import dense_top_k, top_k_per_row


def brute_force(scores: np.ndarray, k: int) -> list[list[int]]:
    """Sort every row by score, then by column."""
    return [sorted(range(len(row)), key=lambda column: (-row[column], column))[:k] for row in scores.tolist()]


def small_integers(rows: int, columns: int) -> st.SearchStrategy[np.ndarray]:
    # Integers are exact in float32, so ties do not depend on the order of additions.
    return arrays(np.float32, (rows, columns), elements=st.integers(-3, 3).map(float))


@st.composite
def searches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int, int]:
    width = draw(st.integers(1, 4))
    queries = draw(small_integers(draw(st.integers(0, 6)), width))
    documents = draw(small_integers(draw(st.integers(0, 20)), width))
    return queries, documents, draw(st.integers(0, 25)), draw(st.integers(1, 7)), draw(st.integers(1, 7))


@given(searches())
def test_tiling_does_not_change_the_result(
    search: tuple[np.ndarray, np.ndarray, int, int, int],
) -> None:
    queries, documents, k, query_tile, document_tile = search
    indices, scores = dense_top_k(queries, documents, k, query_tile=query_tile, document_tile=document_tile)
    everything = queries @ documents.T
    assert indices.shape == scores.shape == (len(queries), min(k, len(documents)))
    assert indices.tolist() == brute_force(everything, k)
    assert np.array_equal(scores, np.take_along_axis(everything, indices.astype(np.int64), axis=1))


def test_ranking_equals_double_precision() -> None:
    generator = np.random.default_rng(0)
    queries, documents = generator.normal(size=(40, 32)), generator.normal(size=(700, 32))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    indices, scores = dense_top_k(
        queries.astype(np.float32), documents.astype(np.float32), 25, query_tile=16, document_tile=100
    )
    exact = queries @ documents.T
    assert np.allclose(scores, -np.sort(-exact, axis=1)[:, :25], atol=1e-6)
    assert np.allclose(np.take_along_axis(exact, indices.astype(np.int64), axis=1), scores, atol=1e-6)
    assert indices.dtype == np.int32
    assert scores.dtype == np.float32


def test_ties_are_ordered_by_row_across_tiles() -> None:
    queries = np.array([[1.0, 0.0]], np.float32)
    documents = np.array([[0, 1], [1, 0], [0.5, 0], [1, 0], [1, 0]], np.float32)
    for tile in (1, 2, 3, 5):
        indices, scores = dense_top_k(queries, documents, 4, document_tile=tile)
        assert indices.tolist() == [[1, 3, 4, 2]]
        assert scores.tolist() == [[1, 1, 1, 0.5]]


def test_ties_at_rank_k_keep_the_first_rows() -> None:
    indices, _ = top_k_per_row(np.zeros((2, 9), np.float32), 3)
    assert indices.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_k_larger_than_the_number_of_documents() -> None:
    indices, scores = dense_top_k(np.ones((2, 1), np.float32), np.array([[1], [3], [2]], np.float32), 10)
    assert indices.tolist() == [[1, 2, 0]] * 2
    assert scores.tolist() == [[3, 2, 1]] * 2


@pytest.mark.parametrize("k", [0, 3])
def test_no_documents_give_no_hits(k: int) -> None:
    indices, scores = dense_top_k(np.ones((2, 4), np.float32), np.empty((0, 4), np.float32), k)
    assert indices.shape == scores.shape == (2, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_vectors_with_nan_or_infinity_are_refused(value: float, side: int) -> None:
    pair = [np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)]
    pair[side][1, 2] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        dense_top_k(pair[0], pair[1], 1)
