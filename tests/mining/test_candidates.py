from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.mining import candidates as module
from llama_index_ace_finetune.mining.candidates import JUDGED, NOT_FOUND, Ragged, gather_candidates
from llama_index_ace_finetune.mining.sources import PADDING, UNKNOWN, rankings_of_hits


@dataclass(frozen=True)
class Fixed:
    """A source with given rankings, including `PADDING` and `UNKNOWN`."""

    name: str
    rankings: list[list[int]]

    def search(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        indices = np.array([self.rankings[row] for row in rows], np.int32).reshape(len(rows), -1)[:, :k]
        return indices, (indices / 100).astype(np.float32)


def merged_by_hand(
    sources: list[Fixed], judged_negatives: list[list[int]], query: int
) -> list[tuple[int, dict[str, int]]]:
    """The rows of one query with their rank per source, in order, merged by a loop."""
    ranks: dict[int, dict[str, int]] = {row: {JUDGED: 0} for row in judged_negatives[query]}
    for source in sources:
        for rank, row in enumerate(source.rankings[query], start=1):
            if row >= 0:
                ranks.setdefault(row, {}).setdefault(source.name, rank)
    place = [JUDGED, *(source.name for source in sources)]

    def key(row: int) -> tuple[int, int, int]:
        best = min(ranks[row].values())
        return best, min(place.index(name) for name, rank in ranks[row].items() if rank == best), row

    return [(row, ranks[row]) for row in sorted(ranks, key=key)]


lists = st.lists(st.sampled_from([PADDING, UNKNOWN, *range(9)]), min_size=5, max_size=5)


@given(
    st.lists(st.tuples(lists, lists, st.sets(st.integers(0, 8), max_size=3)), min_size=1, max_size=6),
    st.integers(1, 3),
)
@settings(max_examples=50)
def test_merging_equals_a_loop(queries: list[tuple[list[int], list[int], set[int]]], at_once: int) -> None:
    sources = [Fixed("a", [a for a, _, _ in queries]), Fixed("b", [b for _, b, _ in queries])]
    judged_negatives = [sorted(judged) for _, _, judged in queries]
    before, module._QUERY_BLOCK = module._QUERY_BLOCK, at_once
    try:
        found = gather_candidates(
            sources,
            len(queries),
            5,
            judged_negatives=Ragged.of([np.array(rows, np.int64) for rows in judged_negatives]),
        )
    finally:
        module._QUERY_BLOCK = before
    assert found.sources == (JUDGED, "a", "b")
    assert found.unknown.tolist() == [0, *(sum(line.count(UNKNOWN) for line in source.rankings) for source in sources)]
    for query in range(len(queries)):
        expected = merged_by_hand(sources, judged_negatives, query)
        assert found.rows[query][found.filled[query]].tolist() == [row for row, _ in expected]
        for column, (row, ranks) in enumerate(expected):
            for number, name in enumerate(found.sources):
                assert found.ranks[number, query, column] == ranks.get(name, NOT_FOUND)
                score = found.scores[number, query, column]
                assert np.isnan(score) if name == JUDGED or name not in ranks else score == np.float32(row / 100)
        assert not found.filled[query, len(expected) :].any()
        assert found.judged[query].sum() == len(judged_negatives[query])


def test_no_candidates() -> None:
    found = gather_candidates([Fixed("a", [[], []])], 2, 5, judged_negatives=Ragged.of([np.empty(0, np.int64)] * 2))
    assert found.rows.shape == (2, 0)
    assert found.ranks.shape == (2, 2, 0)


def test_ragged_counts_owners_and_padding() -> None:
    ragged = Ragged.of([np.array(rows, np.int64) for rows in ([3, 1], [], [2, 5, 4], [7])])
    assert ragged.counts.tolist() == [2, 0, 3, 1]
    assert ragged.owners.tolist() == [0, 0, 2, 2, 2, 3]
    assert ragged.padded(0, 2).tolist() == [[3, 1], [-1, -1]]
    assert ragged.padded(1, 4).tolist() == [[-1, -1, -1], [2, 5, 4], [7, -1, -1]]
    assert ragged.padded(1, 2).shape == (1, 0)
    assert Ragged.of([]).padded(0, 0).shape == (0, 0)


def test_repeated_hits_become_padding_and_ranks_stay() -> None:
    rows, scores = rankings_of_hits([[(4, 0.9), (UNKNOWN, 0.8), (4, 0.7), (UNKNOWN, 0.6), (2, 0.5)], [], [(1, 0.4)]], 4)
    assert rows.tolist() == [
        [4, UNKNOWN, PADDING, UNKNOWN],
        [PADDING] * 4,
        [1, PADDING, PADDING, PADDING],
    ]
    assert scores[0].tolist() == pytest.approx([0.9, 0.8, -np.inf, 0.6])
    assert rankings_of_hits([[], []], 10**9)[0].shape == (2, 0)
