from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.evaluation.measures import (
    HEADLINE,
    MRR,
    Measure,
    Recall,
    Success,
    per_query,
    relevance_of,
)

RANKINGS = np.array([[4, 2, 0, 7], [1, 3, -1, -1], [-1, -1, -1, -1], [5, 6, 8, 9]], np.int32)
RELEVANT = [np.array([0, 7]), np.array([1]), np.array([1]), np.array([], np.int64)]


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Success(1), [0, 1, 0, 0]),
        (Success(3), [1, 1, 0, 0]),
        (Recall(3), [0.5, 1, 0, 0]),
        (Recall(4), [1, 1, 0, 0]),
        (MRR(10), [1 / 3, 1, 0, 0]),
        (MRR(2), [0, 1, 0, 0]),
    ],
)
def test_by_hand(measure: Measure, expected: list[float]) -> None:
    values = per_query(measure, RANKINGS, RELEVANT)
    assert values.dtype == np.float64
    assert values.tolist() == pytest.approx(expected)


def test_padding_is_never_right() -> None:
    assert relevance_of(RANKINGS, RELEVANT).tolist() == [
        [False, False, True, True],
        [True, False, False, False],
        [False] * 4,
        [False] * 4,
    ]


def test_a_right_row_that_no_ranking_holds() -> None:
    assert not relevance_of(np.array([[0], [1]], np.int32), [np.array([999]), np.array([5])]).any()


@pytest.mark.parametrize("measure", [Success(1), Recall(5), MRR(10)])
def test_nothing_ranked_counts_zero(measure: Measure) -> None:
    assert per_query(measure, np.empty((2, 0), np.int32), [np.array([0]), np.array([1])]).tolist() == [0, 0]
    assert per_query(measure, np.empty((0, 3), np.int32), []).tolist() == []


def test_measures_print_their_names() -> None:
    assert [str(measure) for measure in HEADLINE] == ["Success@1", "Success@5", "MRR@10"]
    assert str(Recall(5)) == "Recall@5"


def test_the_mean_is_over_queries_not_over_answers() -> None:
    rankings = np.array([[0, 1, 2, 3], [9, 8, 7, 6]], np.int32)
    values = per_query(Recall(4), rankings, [np.array([0, 1, 2, 3]), np.array([5])])
    assert values.mean() == 0.5


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 15))
@settings(deadline=None, max_examples=60)
def test_values_are_those_of_trec_eval(seed: int, queries: int, depth: int) -> None:
    generator = np.random.default_rng(seed)
    rankings = np.full((queries, depth), -1, np.int32)
    relevant = []
    for row in rankings:
        found = generator.permutation(20)[: generator.integers(0, depth + 1)]
        row[: len(found)] = found
        relevant.append(np.sort(generator.permutation(20)[: generator.integers(1, 5)]))
    qrels = {f"q{n}": {f"d{row}": 1 for row in rows} for n, rows in enumerate(relevant)}
    # trec_eval's reciprocal rank has no cut-off, so the run is cut for it.
    runs = {
        cut: {
            f"q{n}": {f"d{row}": float(depth - place) for place, row in enumerate(ranking[:cut].tolist()) if row >= 0}
            for n, ranking in enumerate(rankings)
        }
        for cut in (10, depth)
    }
    whole = pytrec_eval.RelevanceEvaluator(qrels, {"success.1,5", "recall.5"}).evaluate(runs[depth])
    cut = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(runs[10])
    for measure, results, name in (
        (Success(1), whole, "success_1"),
        (Success(5), whole, "success_5"),
        (Recall(5), whole, "recall_5"),
        (MRR(10), cut, "recip_rank"),
    ):
        # A query with an empty run is not in trec_eval's answer; it counts 0.
        expected = [results.get(f"q{n}", {}).get(name, 0.0) for n in range(queries)]
        assert per_query(measure, rankings, relevant).tolist() == pytest.approx(expected)
