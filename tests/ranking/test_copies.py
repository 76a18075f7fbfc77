"""Rankings over distinct texts equal those of a store that holds every copy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.candidate_scores import PADDING, CandidateScores
from llama_index_ace_finetune.ranking.char_ngrams import CharNgramIndex
from llama_index_ace_finetune.ranking.copies import Copies, without_copies
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.ranking.own_documents import own_hits
from llama_index_ace_finetune.ranking.scoring_legs import DenseLeg, LexicalLeg, candidate_scores

COPIES = Copies(np.array([0, 1, 0, 2, 1, 0]))
WEIGHTS = (0.5, 0.3, 0.2)


def test_memories_of_rows_by_hand() -> None:
    assert COPIES.counts.tolist() == [3, 2, 1]
    assert COPIES.first.tolist() == [0, 1, 3]
    assert COPIES.memories(np.array([1, 2, 0])).tolist() == [1, 4, 3, 0, 2, 5]
    assert COPIES.corpus_rows(np.array([[5, 3, -1]], np.int32)).tolist() == [[0, 2, -1]]
    ranked = np.array([[2, 1, 0], [1, -1, -1]], np.int32)
    assert COPIES.expand(ranked, limit=4).tolist() == [[3, 1, 4, 0], [1, 4, -1, -1]]
    # Row 2 and the copies of row 1 are three memories.
    assert COPIES.cut(ranked, depth=3).tolist() == [[2, 1, -1], [1, -1, -1]]
    assert COPIES.cut(ranked, depth=4).tolist() == ranked.tolist()
    found, scores = without_copies(np.array([[1, 0, 1, 2, -1]], np.int32), np.array([[4.0, 3.0, 4.0, 1.0, 0.0]]))
    assert found.tolist() == [[1, 0, 2, -1, -1]]
    assert scores is not None
    assert scores[0, :3].tolist() == [4.0, 3.0, 1.0]
    assert own_hits(np.array([-1, 1]), COPIES) == 2
    assert own_hits(np.array([-1]), COPIES) == 1
    assert own_hits(None, COPIES) == 0


def test_bm25_counts_every_copy() -> None:
    """Three memories, of which two are "red tree": "red" is in two of three, and their mean length is 5 / 3."""
    index = BM25Index.build(["red tree", "sky", "red tree"])
    leg = LexicalLeg(index, ["red"], Copies(np.array([0, 1, 0])))
    idf, k1, b = math.log((3 + 1) / 2), index.settings.k1, index.settings.b
    score, sky = leg.scores(0, np.array([0, 1]))
    assert score == pytest.approx(idf * (k1 + 1) / (1 + k1 * (1 - b + b * 2 / (5 / 3))), rel=1e-12)
    assert sky == 0
    assert leg.rankings(2).tolist() == [[0, 0]]


def made(seed: int, rows: np.ndarray, copies: Copies | None, *, expanded: bool) -> list[DenseLeg | LexicalLeg]:
    """Legs over distinct texts, or over every copy of them; many scores tie."""
    rng = np.random.default_rng(seed)
    distinct = int(rows.max()) + 1
    texts = [f"unique{row} " * (row % 3) + " ".join(rng.choice(["red", "sky", "pie"], 4)) for row in range(distinct)]
    vectors = unit_rows(rng.integers(1, 3, (distinct, 4)).astype(np.float32))
    queries, asked = ["red pie", "sky", "none"], unit_rows(rng.integers(1, 3, (3, 4)).astype(np.float32))
    everything = [texts[row] for row in rows]
    dense = DenseLeg(asked, vectors[rows]) if expanded else DenseLeg(asked, vectors, copies)
    indexes = (BM25Index.build(everything), CharNgramIndex.build(everything))
    return [dense, *(LexicalLeg(index, queries, None if expanded else copies) for index in indexes)]


def fused(table: CandidateScores) -> list[list[tuple[int, float]]]:
    rows, sums = table.fuse(WEIGHTS, limit=table.rows.shape[1])
    pairs = [zip(*one, strict=True) for one in zip(rows, sums, strict=True)]
    return [[(int(row), float(total)) for row, total in one if row >= 0] for one in pairs]


@settings(max_examples=40)
@given(st.integers(0, 1000), st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 20), st.booleans())
def test_candidates_equal_those_of_all_memories(seed: int, drawn: list[int], depth: int, exclude: bool) -> None:
    number: dict[int, int] = {}
    rows = np.array([number.setdefault(one, len(number)) for one in drawn])
    copies = Copies(rows)
    own = np.array([0, -1, len(number) - 1]) if exclude else None
    table = candidate_scores(made(seed, rows, copies, expanded=False), depth=depth, own=own, copies=copies)
    if own is None:
        reference = candidate_scores(made(seed, rows, None, expanded=True), depth=depth)
        for found, everything in zip(fused(table), fused(reference), strict=True):
            first: dict[int, float] = {}
            for memory, total in everything:
                first.setdefault(int(rows[memory]), total)
            assert [row for row, _ in found] == list(first)
            assert [total for _, total in found] == pytest.approx(list(first.values()), abs=1e-6)
    else:
        for candidates, row in zip(table.rows, own, strict=True):
            assert row not in candidates
            others = len(rows) - (copies.counts[row] if row >= 0 else 0)
            there = candidates[candidates != PADDING]
            assert copies.counts[there].sum() >= min(depth, others)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 20))
def test_nothing_changes_without_copies(seed: int, size: int, depth: int) -> None:
    rows = np.arange(size)
    one = candidate_scores(made(seed, rows, Copies(rows), expanded=False), depth=depth, copies=Copies(rows))
    other = candidate_scores(made(seed, rows, None, expanded=False), depth=depth)
    for name in ("rows", "scores", "found", "highest"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
