from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.mining.candidates import JUDGED, NOT_FOUND, Candidates
from llama_index_ace_finetune.mining.sampling import query_seeds, select, split_mix
from llama_index_ace_finetune.mining.settings import SamplingStrategy


def candidates_of(*queries: list[tuple[int | None, int | None, int | None]]) -> Candidates:
    """Candidates 0, 1, ... of each query from their ranks in (judged, a, b)."""
    width = max(map(len, queries))
    ranks = np.full((3, len(queries), width), NOT_FOUND, np.int32)
    for query, places in enumerate(queries):
        for column, found in enumerate(places):
            for source, rank in enumerate(found):
                if rank is not None:
                    ranks[source, query, column] = rank
    rows = np.tile(np.arange(width, dtype=np.int32), (len(queries), 1))
    return Candidates((JUDGED, "a", "b"), rows, ranks, np.zeros(ranks.shape, np.float32), np.zeros(3, np.int64))


def selections(
    found: Candidates,
    count: int,
    sampling_strategy: SamplingStrategy,
    *,
    accepted: np.ndarray | None = None,
    seed: int = 0,
) -> list[list[tuple[int, str]]]:
    accepted = np.ones(found.rows.shape, bool) if accepted is None else accepted
    keys = [f"query {number}" for number in range(len(found.rows))]
    columns, sources = select(
        found, accepted, count, sampling_strategy=sampling_strategy, seeds=query_seeds(keys, seed)
    )
    assert columns.shape == sources.shape == (len(found.rows), count)
    return [
        [(int(c), found.sources[s]) for c, s in zip(line, origin, strict=True) if c >= 0]
        for line, origin in zip(columns, sources, strict=True)
    ]


ONE = candidates_of([(None, 1, None), (None, None, 1), (None, 2, 5), (None, None, 2), (None, None, 3)])


def test_top_selects_by_best_rank() -> None:
    assert selections(ONE, 3, "top") == [[(0, "a"), (1, "b"), (2, "a")]]
    accepted = np.array([[False, False, True, False, True]])
    assert selections(ONE, 3, "top", accepted=accepted) == [[(2, "a"), (4, "b")]]


def test_spread_is_round_robin_over_the_sources() -> None:
    far = candidates_of([(None, None, 1), (None, None, 2), (None, None, 3), (None, 9, None), (None, 10, 4)])
    assert selections(far, 3, "top") == [[(0, "b"), (1, "b"), (2, "b")]]
    assert selections(far, 4, "spread") == [[(3, "a"), (0, "b"), (4, "a"), (1, "b")]]
    # A source without candidates left is skipped.
    assert selections(far, 9, "spread") == [[(3, "a"), (0, "b"), (4, "a"), (1, "b"), (2, "b")]]


@pytest.mark.parametrize("sampling_strategy", ["top", "random", "spread"])
def test_judged_negatives_come_first(sampling_strategy: SamplingStrategy) -> None:
    found = candidates_of([(0, None, None), (0, 7, None), (None, 1, 1), (None, 2, None), (None, None, 2)])
    result = selections(found, 4, sampling_strategy)[0]
    assert result[:2] == [(0, JUDGED), (1, JUDGED)]
    assert len(result) == 4
    assert selections(found, 1, sampling_strategy) == [[(0, JUDGED)]]


@pytest.mark.parametrize("sampling_strategy", ["top", "random", "spread"])
def test_count_zero_and_no_candidates(sampling_strategy: SamplingStrategy) -> None:
    assert selections(ONE, 0, sampling_strategy) == [[]]
    assert selections(ONE, 2, sampling_strategy, accepted=np.zeros((1, 5), bool)) == [[]]
    assert selections(candidates_of([], []), 2, sampling_strategy) == [[], []]


def test_random_draws_are_uniform() -> None:
    found = candidates_of(*[[(None, rank, None) for rank in range(1, 6)]] * 6000)
    accepted = np.ones(found.rows.shape, bool)
    accepted[:, 2] = False
    drawn = selections(found, 2, "random", accepted=accepted)
    pairs = Counter(tuple(column for column, _ in line) for line in drawn)
    # 4 * 3 ordered pairs, 500 each; six standard deviations are 128.
    assert len(pairs) == 12
    assert max(abs(number - 500) for number in pairs.values()) < 128


def test_random_draw_depends_only_on_the_seed_and_the_query() -> None:
    one = [(None, rank, None) for rank in range(1, 21)]
    found = candidates_of(*[one] * 30)
    keys = [f"key {number}" for number in range(30)]
    accepted = np.ones(found.rows.shape, bool)

    def drawn(order: list[int], seed: int) -> list[list[int]]:
        selected = found.of_queries(np.array(order))
        seeds = query_seeds([keys[number] for number in order], seed)
        return select(selected, accepted[order], 5, sampling_strategy="random", seeds=seeds)[0].tolist()

    everything = drawn(list(range(30)), 7)
    assert len({tuple(line) for line in everything}) > 25
    assert drawn([12, 3], 7) == [everything[12], everything[3]]
    assert drawn(list(range(30)), 8) != everything


def test_split_mix_is_splitmix64() -> None:
    # The first outputs of the published generator seeded by 1234567: its state grows by the golden gamma.
    states = 1234567 + 0x9E3779B97F4A7C15 * np.arange(3, dtype=np.uint64)
    assert split_mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


rank = st.one_of(st.none(), st.integers(1, 30))


@given(
    st.lists(st.tuples(st.just(None), rank, rank, st.booleans()), min_size=1, max_size=10),
    st.integers(0, 6),
)
@settings(max_examples=100)
def test_spread_equals_a_loop(places: list[tuple[None, int | None, int | None, bool]], count: int) -> None:
    found = candidates_of([(judged, a, b) for judged, a, b, _ in places])
    left = {column for column, (_, a, b, is_accepted) in enumerate(places) if is_accepted and not a is b is None}
    expected: list[tuple[int, str]] = []
    while len(expected) < count and left:
        for number, name in ((1, "a"), (2, "b")):
            own = [column for column in sorted(left) if places[column][number] is not None]
            if own and len(expected) < count:
                best = min(own, key=lambda column, number=number: places[column][number])  # type: ignore[misc]
                expected.append((best, name))
                left.discard(best)
    accepted = np.array([[is_accepted for *_, is_accepted in places]])
    assert selections(found, count, "spread", accepted=accepted) == [expected]
