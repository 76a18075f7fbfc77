"""Properties of mining that hold for any settings and data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st

from llama_index_ace_finetune.mining.hard_negatives import mine_negatives
from llama_index_ace_finetune.mining.results import MinedNegatives
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.sources import UNKNOWN, DenseSource

ROWS, QUERIES = 14, 6


@dataclass(frozen=True)
class Fixed:
    """A source with one ranking per query, some hits of which are not in the corpus."""

    rankings: np.ndarray
    name: str = "fixed"

    def search(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = self.rankings[rows, :k].astype(np.int32)
        return found, np.linspace(1, 0, found.shape[1], dtype=np.float32) + np.zeros(found.shape, np.float32)


@dataclass(frozen=True)
class Data:
    """Queries and corpus as random unit vectors in the plane, with judgements."""

    queries: np.ndarray
    corpus: np.ndarray
    relevant: list[np.ndarray]
    judged_negatives: list[np.ndarray]
    excluded: np.ndarray
    rankings: np.ndarray

    @classmethod
    def drawn(cls, seed: int) -> Data:
        generator = np.random.default_rng(seed)

        def directions(count: int) -> np.ndarray:
            angle = generator.uniform(0, 2 * np.pi, count)
            return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

        def some(most: int) -> list[np.ndarray]:
            return [generator.choice(ROWS, generator.integers(0, most + 1), replace=False) for _ in range(QUERIES)]

        rankings = np.array([generator.permutation(ROWS)[:8] for _ in range(QUERIES)])
        rankings[generator.random(rankings.shape) < 0.1] = UNKNOWN
        relevant = some(3)
        judged_negatives = [np.setdiff1d(rows, known) for rows, known in zip(some(2), relevant, strict=True)]
        excluded = generator.random(ROWS) < 0.2
        return cls(directions(QUERIES), directions(ROWS), relevant, judged_negatives, excluded, rankings)

    def mine(self, settings: MiningSettings, count: int, order: list[int] | None = None) -> MinedNegatives:
        selected = np.array(list(range(QUERIES)) if order is None else order)
        queries = self.queries[selected]
        return mine_negatives(
            query_vectors=queries,
            corpus_vectors=self.corpus,
            relevant=[self.relevant[query] for query in selected],
            judged_negatives=[self.judged_negatives[query] for query in selected],
            sources=[DenseSource(queries, self.corpus), Fixed(self.rankings[selected])],
            count=count,
            settings=settings,
            excluded=self.excluded,
            keys=[f"query {query}" for query in selected],
        )


@st.composite
def any_settings(draw: Any) -> MiningSettings:
    range_max = draw(st.integers(1, 20))
    margin = draw(st.sampled_from([None, 0.5, 0.1]))
    return MiningSettings(
        range_max=range_max,
        range_min=draw(st.integers(0, range_max - 1)),
        near_duplicate=draw(st.sampled_from([0.8, 0.95, 1.0])),
        nearer_answer=draw(st.sampled_from([None, 0.7, 1.0])),
        relative_margin=margin,
        absolute_margin=draw(st.sampled_from([None, 0.0, 0.1])),
        max_score=draw(st.sampled_from([None, -0.2, 0.7])),
        relaxation=() if margin is None else draw(st.sampled_from([(), (0.0,), (0.0, None), (None,)])),
        sampling_strategy=draw(st.sampled_from(["top", "random", "spread"])),
        seed=draw(st.integers(0, 3)),
    )


any_run = given(st.integers(0, 2**32 - 1), any_settings(), st.integers(0, 6))
enough = options(max_examples=100)


@any_run
@enough
def test_positives_held_out_and_near_duplicates_are_never_negatives(
    seed: int, settings: MiningSettings, count: int
) -> None:
    data = Data.drawn(seed)
    for query, negatives in enumerate(data.mine(settings, count).negatives):
        rows = [negative.row for negative in negatives]
        assert len(rows) == len(set(rows)) <= count
        assert not set(rows) & set(data.relevant[query].tolist())
        assert not data.excluded[rows].any()
        for row in set(rows) - set(data.judged_negatives[query].tolist()):
            assert all(
                np.dot(data.corpus[relevant], data.corpus[row]) < settings.near_duplicate
                for relevant in data.relevant[query]
            )


@any_run
@enough
def test_counts_add_up(seed: int, settings: MiningSettings, count: int) -> None:
    result = Data.drawn(seed).mine(settings, count)
    assert result.candidates == result.kept + sum(result.filtered.values()) + result.not_needed
    assert result.not_needed >= 0
    assert result.kept == sum(map(len, result.negatives)) <= count * QUERIES
    assert sum(result.histograms.kept) == result.kept
    for name, counts in result.histograms.filtered.items():
        assert sum(counts) == result.filtered[name]
    # A query has fewer than `count` negatives only if no more candidates were accepted.
    short = sum(len(negatives) < count for negatives in result.negatives)
    assert short < QUERIES or result.not_needed == 0


@any_run
@enough
def test_result_of_a_query_does_not_depend_on_other_queries(seed: int, settings: MiningSettings, count: int) -> None:
    data = Data.drawn(seed)
    everything = data.mine(settings, count).negatives
    order = np.random.default_rng(seed).permutation(QUERIES).tolist()
    assert data.mine(settings, count, order).negatives == tuple(everything[query] for query in order)
    assert data.mine(settings, count, order[:2]).negatives == tuple(everything[query] for query in order[:2])


@any_run
@enough
def test_negatives_equal_those_of_a_loop(seed: int, settings: MiningSettings, count: int) -> None:
    data = Data.drawn(seed)
    result = data.mine(settings, count)
    for query in range(QUERIES):
        strict, loosest = kept_by_hand(data, settings, query)
        rows = [negative.row for negative in result.negatives[query]]
        judged = [row for row in data.judged_negatives[query].tolist() if not data.excluded[row]]
        first = min(count, len(strict))
        if settings.sampling_strategy == "top":
            assert rows[:first] == strict[:count]
        assert set(rows[:first]) <= set(strict)
        assert rows[: min(count, len(judged))] == sorted(judged)[:count]
        assert set(rows[first:]) <= set(loosest) - set(strict)
        assert len(rows) == min(count, len(loosest))


def kept_by_hand(data: Data, settings: MiningSettings, query: int) -> tuple[list[int], list[int]]:
    """The accepted rows of one query, best rank first: before the margin back-off, and at its last step."""
    cosines = (data.corpus @ data.queries[query]).tolist()
    dense = sorted(range(ROWS), key=lambda row: (-cosines[row], row))[: settings.range_max]
    fixed = data.rankings[query][: settings.range_max].tolist()
    judged_negatives, relevant = set(data.judged_negatives[query].tolist()), data.relevant[query].tolist()
    ranks = dict.fromkeys(judged_negatives, (0, 0))
    for source, ranking in enumerate((dense, fixed), start=1):
        for rank, row in enumerate(ranking, start=1):
            if row >= 0:
                ranks[row] = min(ranks.get(row, (99, 99)), (rank, source))
    steps = [settings.relative_margin, *settings.relaxation]
    found = []
    for margin in (steps[0], steps[-1]):
        accepted = []
        for row in sorted(ranks, key=lambda row: (ranks[row], row)):
            if row in relevant or data.excluded[row]:
                continue
            if row in judged_negatives or is_accepted(data, settings, margin, row, cosines, relevant, ranks[row][0]):
                accepted.append(row)
        found.append(accepted)
    return found[0], found[1]


def is_accepted(
    data: Data,
    settings: MiningSettings,
    margin: float | None,
    row: int,
    cosines: list[float],
    relevant: list[int],
    rank: int,
) -> bool:
    if any(float(np.dot(data.corpus[answer], data.corpus[row])) >= settings.near_duplicate for answer in relevant):
        return False
    if rank <= settings.range_min:
        return False
    if settings.max_score is not None and cosines[row] > settings.max_score:
        return False
    if relevant:
        positive = min(cosines[answer] for answer in relevant)
        if settings.nearer_answer is not None:
            max_positive_similarity = max(float(np.dot(data.corpus[answer], data.corpus[row])) for answer in relevant)
            if max_positive_similarity > positive - abs(positive) * (1 - settings.nearer_answer):
                return False
        if settings.absolute_margin is not None and cosines[row] > positive - settings.absolute_margin:
            return False
        if margin is not None and cosines[row] > positive - abs(positive) * margin:
            return False
    return True
