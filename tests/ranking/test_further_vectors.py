"""Known queries as further vectors: the best cosine of each memory, and its place in the dense leg."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.ranking.copies import Copies
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.ranking.further_vectors import FurtherVectorLeg, FurtherVectors, merge_further_vectors
from llama_index_ace_finetune.ranking.scoring_legs import DenseLeg, candidate_scores


def _vectors(*angles: float) -> np.ndarray:
    """Unit vectors in the plane at these angles in degrees."""
    radians = np.radians(np.array(angles))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_best_known_query_of_each_memory_by_hand() -> None:
    known = FurtherVectors.of(_vectors(60, 0, 90), np.array([2, 5, 2]))
    ((memories, cosines),) = known.best(_vectors(0), 2)
    assert memories.tolist() == [2, 5]
    assert cosines.tolist() == pytest.approx([0.5, 1.0], abs=1e-6)
    assert known.scores(_vectors(90)[0], np.array([5, 0, 2])).tolist() == pytest.approx([0.0, -1.0, 1.0], abs=1e-6)
    ((memories, _),) = known.best(_vectors(0), 2, among=np.array([False, True]))
    assert memories.tolist() == [5]


def test_offset_decides_between_text_and_known_query_by_hand() -> None:
    # Cosines with the query at 0 degrees: memory 0 has .766, memory 1 .643 and a known query with .940.
    documents, query = _vectors(40, 50), _vectors(0)
    known = FurtherVectors.of(_vectors(20), np.array([1]))
    table = candidate_scores([DenseLeg(query, documents), FurtherVectorLeg(query, known)])

    def scores(offset: float | None) -> list[float]:
        return merge_further_vectors(table, offset, dense=0, depth=10).scores[0, 0].round(3).tolist()

    assert scores(None) == [0.766, 0.643]
    assert scores(0.1) == [0.766, 0.84]
    assert scores(0.2) == [0.766, 0.74]
    assert scores(0.4) == [0.766, 0.643]
    assert merge_further_vectors(table, 0.1, dense=0, depth=1).found[0, 0].tolist() == [False, True]


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6), offset=st.sampled_from([0.0, 0.05, 0.3]), depth=st.integers(1, 12), copied=st.booleans()
)
def test_merged_leg_has_the_hits_and_scores_of_a_full_comparison(
    seed: int, offset: float, depth: int, copied: bool
) -> None:
    draw = np.random.default_rng(seed)
    documents = unit_rows(draw.standard_normal((20, 3)).astype(np.float32))
    queries = unit_rows(draw.standard_normal((3, 3)).astype(np.float32))
    vectors, owners = unit_rows(draw.standard_normal((15, 3)).astype(np.float32)), draw.integers(0, 20, 15)
    copies = Copies(np.concatenate([np.arange(20), draw.integers(0, 20, 6)])) if copied else None
    known = FurtherVectors.of(vectors, owners)
    legs = [DenseLeg(queries, documents, copies), FurtherVectorLeg(queries, known, copies)]
    merged = merge_further_vectors(candidate_scores(legs, depth=depth), offset, dense=0, depth=depth, copies=copies)
    assert len(merged.scores) == len(merged.floors) == 1
    for query in range(3):
        every = documents.astype(np.float64) @ queries[query]
        for vector, owner in zip(vectors.astype(np.float64), owners, strict=True):
            every[owner] = max(every[owner], vector @ queries[query] - offset)
        memories = np.arange(20) if copies is None else copies.rows
        order = np.argsort(-every[memories], kind="stable")[:depth]
        hits = merged.rows[query][merged.found[0, query]]
        assert set(hits.tolist()) == set(memories[order].tolist())
        found = merged.scores[0, query][merged.found[0, query]]
        assert found == pytest.approx(every[hits], abs=2e-6)
        assert merged.highest[0, query] == pytest.approx(every.max(), abs=2e-6)
