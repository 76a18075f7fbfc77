from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.structures import Structure, structures
from llama_index_ace_finetune.evaluation.metrics.measures import MRR, per_query
from llama_index_ace_finetune.ranking.candidate_scores import PADDING, CandidateScores
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import fuse_rankings

LEGS: tuple[Leg, ...] = ("dense", "bm25", "char_ngrams", "late")


def table(seed: int, *, queries: int = 12, corpus: int = 30, depth: int = 8) -> tuple[CandidateScores, np.ndarray]:
    """The union of the first `depth` of two cosines and BM25, with a late leg; and the rankings of the first two."""
    generator = np.random.default_rng(seed)
    full = np.stack(
        [
            generator.normal(0.3, 0.2, (queries, corpus)).clip(-1, 1),
            generator.integers(0, 5, (queries, corpus)).astype(float),  # many ties
            generator.random((queries, corpus)),
            generator.normal(0.5, 0.2, (queries, corpus)).clip(-1, 1),
        ]
    )
    rankings = np.argsort(-full[:3], axis=2, kind="stable")[:, :, :depth].astype(np.int32)
    found = np.zeros(full.shape, bool)
    np.put_along_axis(found[:3], rankings.astype(np.int64), True, axis=2)
    found[3] = False
    union = [np.flatnonzero(found[:, query].any(axis=0)) for query in range(queries)]
    width = max(map(len, union))
    rows = np.full((queries, width), PADDING)
    for query, columns in enumerate(union):
        rows[query, : len(columns)] = columns
    places = np.where(rows == PADDING, 0, rows)[None].repeat(4, axis=0)
    highest = full.max(axis=2)
    highest[3] = np.nan
    scores = CandidateScores(
        rows=rows,
        scores=np.take_along_axis(full, places, axis=2),
        found=np.take_along_axis(found, places, axis=2) & (rows != PADDING),
        highest=highest,
        floors=(-1.0, 0.0, 0.0, -1.0),
    )
    return scores, rankings


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_values_are_those_of_the_served_ranking(seed: int) -> None:
    scores, rankings = table(seed)
    generator = np.random.default_rng(seed)
    relevant = [np.sort(generator.choice(30, generator.integers(1, 4), replace=False)) for _ in range(12)]
    made = structures(LEGS, embeddings=("base",))
    assert {one.legs for one in made} >= {("bm25",), ("dense",), ("dense", "bm25", "char_ngrams", "late")}
    for structure in made:
        values = Candidate.of(structure, LEGS, scores, relevant).values
        assert values.shape == (len(structure.grid), 12)
        for row in {0, len(structure.grid) - 1}:
            weights = structure.settings(row).weights
            if structure.kind == "rrf":
                fused = fuse_rankings(rankings[[0, 1]], weights=list(weights.values()), limit=10)
            else:
                fused, _ = scores.fuse([weights.get(leg, 0.0) for leg in LEGS], limit=10)
            assert values[row] == pytest.approx(per_query(MRR(10), fused, relevant))


def test_query_without_candidates_has_no_rank() -> None:
    nothing = CandidateScores(
        np.full((2, 1), PADDING), np.zeros((1, 2, 1)), np.zeros((1, 2, 1), bool), np.full((1, 2), np.nan), (0.0,)
    )
    nothing.rows[0, 0], nothing.found[0, 0, 0], nothing.scores[0, 0, 0], nothing.highest[0, 0] = 4, True, 2.0, 2.0
    one = Structure("none", "convex", ("bm25",), ((1.0,),), (1.0,))
    assert Candidate.of(one, ("bm25",), nothing, [np.array([4]), np.array([4])]).values.tolist() == [[1.0, 0.0]]


def test_structures_are_ordered_by_cost_and_valid() -> None:
    every: tuple[Leg, ...] = ("base", "bm25", "bm25_unstemmed", "char_ngrams", "sparse", "late")
    made = structures(every, embeddings=("base", "tuned"))
    assert [one.cost for one in made] == sorted(one.cost for one in made)
    names = [one.name for one in made]
    assert len(set(names)) == len(names)
    assert {"BM25", "base", "tuned", "tuned + BM25, RRF", "tuned + base + BM25 + late interaction, convex"} <= set(
        names
    )
    for structure in made:
        assert structure.neutral in structure.grid
        assert np.allclose(np.sum(structure.grid, axis=1), 1, atol=1e-5)
        assert len(set(structure.grid)) == len(structure.grid)
        for row in range(len(structure.grid)):
            assert set(structure.settings(row).weights) == set(structure.legs)  # a weight of 0 is refused
        assert "base" not in structure.legs or structure.embedding == "tuned"


def test_only_available_legs_and_embeddings_are_compared() -> None:
    names = [one.name for one in structures(("bm25",), embeddings=("base",))]
    assert names == ["BM25", "base", "base + BM25, RRF", "base + BM25, convex"]
