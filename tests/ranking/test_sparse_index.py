"""The index of sparse vectors: dot products as scipy computes them, updates, and scores of given rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.sparse_index import SparseIndex

_DIMENSION = 6
_weights = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.5, -0.75])
_vectors = st.lists(st.lists(_weights, min_size=_DIMENSION, max_size=_DIMENSION), min_size=1, max_size=8)


class Written:
    """An encoder of texts that are the numbers of their vectors."""

    dimension = _DIMENSION

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        return csr_array(np.array([text.split() for text in texts], np.float32).reshape(-1, _DIMENSION))

    encode_documents = encode_queries


def _texts(vectors: Sequence[Sequence[float]]) -> list[str]:
    return [" ".join(map(str, vector)) for vector in vectors]


def _build(vectors: Sequence[Sequence[float]]) -> SparseIndex:
    return SparseIndex.build(_texts(vectors), Written())


@settings(max_examples=20)
@given(_vectors, _vectors)
def test_scores_equal_the_product_of_scipy(documents: list[list[float]], queries: list[list[float]]) -> None:
    index = _build(documents)
    expected = (csr_array(np.array(queries)) @ csr_array(np.array(documents)).T).toarray()
    for query, scores in zip(_texts(queries), expected, strict=True):
        np.testing.assert_allclose(index.scores(query), scores, atol=1e-12)
        rows = np.arange(len(documents))[::-1]
        np.testing.assert_allclose(index.score(query, rows), scores[::-1], atol=1e-12)
        found, values = index.search(query, len(documents))
        np.testing.assert_allclose(values, scores[found], atol=1e-6)
        assert (np.diff(values) <= 0).all()


@settings(max_examples=20)
@given(_vectors, _vectors, st.data())
def test_updates_equal_a_new_index(first: list[list[float]], later: list[list[float]], data: st.DataObject) -> None:
    every = [*first, *later]
    removed = data.draw(st.sets(st.integers(0, len(every) - 1)))
    index = _build(first)
    assert index.add(_texts(later)).tolist() == list(range(len(first), len(every)))
    index.remove(removed)
    kept = [row for row in range(len(every)) if row not in removed]
    fresh = _build([every[row] for row in kept])
    query = _texts(every)[0]
    np.testing.assert_allclose(index.scores(query)[kept], fresh.scores(query), atol=1e-12)
    assert len(index) == len(kept)
    found, values = index.search(query, len(every))
    expected, same = fresh.search(query, len(every))
    assert [kept.index(row) for row in found] == expected.tolist()
    np.testing.assert_array_equal(values, same)


def test_hand_arithmetic() -> None:
    index = _build([[1, 0, 2, 0, 0, 0], [0, 3, 0, 0, 0, 0], [0, 0, 0.5, 0, 0, 4]])
    rows, scores = index.search("0.5 0 1 0 0 1", 10)
    assert (rows.tolist(), scores.tolist()) == ([2, 0], [4.5, 2.5])
    assert index.search("0 0 0 1 0 0", 10)[0].tolist() == []


def test_negative_products_are_hits() -> None:
    rows, scores = _build([[1, 0, 0, 0, 0, 0], [-2, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]).search("1 0 0 0 0 0", 3)
    assert (rows.tolist(), scores.tolist()) == ([0, 1], [1.0, -2.0])


def test_a_query_must_be_a_text() -> None:
    with pytest.raises(AceFinetuneError, match="give a text"):
        _build([[1, 0, 0, 0, 0, 0]]).search(["1"], 3)
