"""Legs over arrays: the union of their hits with every leg's exact score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.candidate_scores import PADDING
from llama_index_ace_finetune.ranking.char_ngrams import CharNgramIndex
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.ranking.scoring_legs import DenseLeg, LexicalLeg, candidate_scores

WORDS = ["red", "green", "blue", "tree", "apple", "pie", "house", "cat", "dog", "sky"]


@dataclass
class Reranker:
    """A leg that only scores: the row number."""

    floor = -1.0
    retrieves = False

    def rankings(self, depth: int) -> NDArray[np.int32]:
        raise AssertionError("it retrieves nothing")

    def scores(self, query: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return rows / 100


def legs(n: int = 40) -> tuple[list[str], DenseLeg, LexicalLeg]:
    rng = np.random.default_rng(3)
    corpus = [" ".join(rng.choice(WORDS, 6)) for _ in range(n)]
    queries = ["red apple", "cat sky sky", "unknown", "pie"]
    vectors = unit_rows(rng.normal(size=(n + 4, 8)).astype(np.float32))
    return corpus, DenseLeg(vectors[:4], vectors[4:]), LexicalLeg(BM25Index.build(corpus), queries)


def test_the_fusion_of_the_whole_corpus_does_not_depend_on_the_depth() -> None:
    """With exact scores, a candidate's sum is the one that it has if every document is a candidate."""
    corpus, dense, lexical = legs()
    ngrams = LexicalLeg(CharNgramIndex.build(corpus), lexical.queries)
    weights = (0.6, 0.3, 0.1)
    few = candidate_scores([dense, lexical, ngrams], depth=5)
    all_of_them = candidate_scores([dense, lexical, ngrams], depth=len(corpus))
    whole = all_of_them.sums(weights)
    for query, rows in enumerate(few.rows):
        there = rows != PADDING
        assert 5 <= there.sum() <= 15
        np.testing.assert_array_equal(few.sums(weights)[query, there], whole[query, rows[there]])


def test_scores_by_hand() -> None:
    index = BM25Index.build(["red apple", "green tree", "red tree"])
    dense = DenseLeg(np.array([[1, 0]], np.float32), np.array([[0, 1], [1, 0], [0.6, 0.8]], np.float32))
    table = candidate_scores([dense, LexicalLeg(index, ["red"]), Reranker()], depth=1)
    assert table.rows.tolist() == [[0, 1]]  # the nearest vector is row 1, the best match row 0
    assert table.scores[0, 0].tolist() == [0.0, 1.0]
    assert table.scores[1, 0, 1] == 0.0 < table.scores[1, 0, 0]
    assert table.found[:, 0].tolist() == [[False, True], [True, False], [False, False]]
    assert table.floors == (-1.0, 0.0, -1.0)
    assert np.isnan(table.highest[2, 0])
    # dense: (0 + 1) / (1 + 1) and 1; BM25: 1 and 0
    assert table.sums((0.5, 0.5, 0.0))[0] == pytest.approx([0.75, 0.5])


def test_own_document_is_no_candidate_and_does_not_set_the_scale() -> None:
    _, dense, lexical = legs()
    plain, own = candidate_scores([dense, lexical], depth=3), np.array([0, -1, -1, 7])
    table = candidate_scores([dense, lexical], depth=3, own=own)
    assert 0 not in table.rows[0]
    assert 7 not in table.rows[3]
    np.testing.assert_array_equal(table.rows[1][table.rows[1] != PADDING], plain.rows[1][plain.rows[1] != PADDING])
    best = np.where(table.rows[0] != PADDING, table.scores[0, 0], -np.inf).max()
    assert table.highest[0, 0] == best


def test_no_leg_that_retrieves_is_refused() -> None:
    with pytest.raises(AceFinetuneError, match="No leg retrieves"):
        candidate_scores([Reranker()])


def test_empty_corpus_has_no_candidates() -> None:
    none = DenseLeg(np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32))
    table = candidate_scores([none, LexicalLeg(BM25Index.build([]), ["a", "b"])])
    assert table.fuse((1.0, 1.0), limit=3)[0].tolist() == [[-1] * 3] * 2
