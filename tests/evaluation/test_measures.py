from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.hits import match_qrels
from llama_index_ace_finetune.evaluation.metrics.measures import (
    HEADLINE,
    MAP,
    MEASURE_CLASSES,
    MRR,
    NDCG,
    Measure,
    Recall,
    Success,
    measure_rankings,
    parse_measure,
    per_query,
)
from llama_index_ace_finetune.evaluation.metrics.qrels import Qrels

RANKINGS = np.array([[4, 2, 0, 7], [1, 3, -1, -1], [-1, -1, -1, -1]], np.int32)
RELEVANT = [np.array([0, 7]), np.array([1]), np.array([1])]
EVERY: tuple[Measure, ...] = (Success(5), Recall(5), MRR(10), NDCG(10), MAP(100))


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Success(1), [0, 1, 0]),
        (Success(3), [1, 1, 0]),
        (Recall(3), [0.5, 1, 0]),
        (Recall(4), [1, 1, 0]),
        (MRR(10), [1 / 3, 1, 0]),
        (MRR(2), [0, 1, 0]),
        # Relevant at ranks 3 and 4: 1 / log2(4) + 1 / log2(5), over 1 / log2(2) + 1 / log2(3).
        (NDCG(10), [(1 / 2 + 1 / math.log2(5)) / (1 + 1 / math.log2(3)), 1, 0]),
        (NDCG(3), [(1 / 2) / (1 + 1 / math.log2(3)), 1, 0]),
        (NDCG(1), [0, 1, 0]),
        # (1/3 + 2/4) / 2
        (MAP(10), [5 / 12, 1, 0]),
        (MAP(3), [1 / 6, 1, 0]),
    ],
)
def test_by_hand(measure: Measure, expected: list[float]) -> None:
    values = per_query(measure, RANKINGS, RELEVANT)
    assert values.dtype == np.float64
    assert values.tolist() == pytest.approx(expected)


def test_ndcg_gain_is_linear_in_grades() -> None:
    qrels = Qrels.of([[5, 6, 7]], [[3, 1, 0]])
    # Found: grade 1 at rank 1 and grade 3 at rank 3. Best: 3, then 1. Grade 0 is not relevant.
    expected = (1 + 3 / 2) / (3 + 1 / math.log2(3))
    assert per_query(NDCG(10), np.array([[6, 7, 5]], np.int32), qrels).tolist() == pytest.approx([expected])
    assert per_query(Recall(2), np.array([[6, 7, 5]], np.int32), qrels).tolist() == [0.5]


def test_map_divides_by_all_relevant_documents_even_if_k_is_smaller() -> None:
    assert per_query(MAP(1), np.array([[0, 1]], np.int32), [[0, 1, 2, 3]]).tolist() == [0.25]


def test_relevant_row_outside_of_all_rankings() -> None:
    assert match_qrels(np.array([[0], [1]], np.int32), Qrels.of([[999], [5]])).ranks.tolist() == []


@pytest.mark.parametrize("measure", EVERY)
def test_empty_ranking_counts_as_0(measure: Measure) -> None:
    assert per_query(measure, np.empty((2, 0), np.int32), [[0], [1]]).tolist() == [0, 0]
    assert per_query(measure, np.full((2, 3), -1, np.int32), [[0], [1]]).tolist() == [0, 0]
    assert per_query(measure, np.empty((0, 3), np.int32), []).tolist() == []


def test_mean_is_over_queries_not_documents() -> None:
    rankings = np.array([[0, 1, 2, 3], [9, 8, 7, 6]], np.int32)
    assert per_query(Recall(4), rankings, [[0, 1, 2, 3], [5]]).mean() == 0.5


def test_many_measures_equal_single_measures() -> None:
    together = measure_rankings(EVERY, RANKINGS, RELEVANT)
    assert list(together) == ["Success@5", "Recall@5", "MRR@10", "nDCG@10", "MAP@100"]
    for measure in EVERY:
        assert together[str(measure)].tolist() == per_query(measure, RANKINGS, RELEVANT).tolist()


# ------------------------------------------------------------------------------------------------ names


def test_measures_print_their_names() -> None:
    assert [str(measure) for measure in HEADLINE] == ["Success@1", "Success@5", "MRR@10"]
    assert [str(measure) for measure in (Recall(5), NDCG(10), MAP(100))] == ["Recall@5", "nDCG@10", "MAP@100"]


@given(st.sampled_from(MEASURE_CLASSES), st.integers(1, 10**6))
def test_names_round_trip(kind: type[Measure], k: int) -> None:
    assert parse_measure(str(kind(k))) == kind(k)
    assert parse_measure(str(kind(k)).lower()) == kind(k)


def test_original_names_and_aliases() -> None:
    assert parse_measure("Recall@5") == Recall(5)
    assert parse_measure("recall@5", original_names=True) == Success(5)
    assert parse_measure("MRR@10", original_names=True) == MRR(10)
    assert parse_measure("Hit@3") == Success(3)


@pytest.mark.parametrize("name", ["", "MRR", "Recall@", "Recall@-1", "Recall@1.5", "F1@5", "MRR@10@10"])
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(AceFinetuneError, match=r"There is no measure .*; write Success@k"):
        parse_measure(name)


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_cut_off_must_be_a_positive_integer(k: int) -> None:
    with pytest.raises(AceFinetuneError, match="cut-off of a measure"):
        NDCG(k)
    with pytest.raises(AceFinetuneError, match="cut-off of a measure"):
        parse_measure("MRR@0")


# ------------------------------------------------------------------------------------------------ bad inputs


@pytest.mark.parametrize(
    ("rankings", "sentence"),
    [
        ([[0, 1], [3, 3]], "query at position 1 holds the same row twice"),
        ([[0, -1], [-1, 3]], "query at position 1 holds a hit after padding"),
        ([[0, -2], [1, 2]], "query at position 0 holds a row below -1"),
    ],
)
def test_invalid_ranking_is_refused(rankings: list[list[int]], sentence: str) -> None:
    with pytest.raises(AceFinetuneError, match=sentence):
        per_query(MRR(10), np.array(rankings, np.int32), [[0], [1]])


def test_rankings_of_wrong_shape_or_dtype_are_refused() -> None:
    with pytest.raises(AceFinetuneError, match=r"float64 of shape \(1, 2\)"):
        per_query(MRR(10), np.zeros((1, 2)), [[0]])  # type: ignore[arg-type]
    with pytest.raises(AceFinetuneError, match=r"shape \(2,\)"):
        per_query(MRR(10), np.zeros(2, np.int32), [[0]])
    with pytest.raises(AceFinetuneError, match="rankings for 1 queries and qrels for 2"):
        per_query(MRR(10), np.zeros((1, 1), np.int32), [[0], [1]])


def test_queries_without_a_relevant_document_are_refused() -> None:
    with pytest.raises(AceFinetuneError, match="2 of 3 queries have no relevant document, the first is query 1"):
        per_query(MRR(10), RANKINGS, Qrels.of([[0], [], [4]], [[1], [], [0]]))


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([[1.0, np.nan], [1.0, 0.5]], "query at position 0 holds a score that is NaN"),
        ([[1.0, 0.5], [0.5, 1.0]], "query at position 1 holds a score above the one before it"),
        ([[1.0, 0.5]], "scores have shape"),
    ],
)
def test_invalid_scores_are_refused(scores: list[list[float]], sentence: str) -> None:
    with pytest.raises(AceFinetuneError, match=sentence):
        measure_rankings(EVERY, np.array([[0, 1], [1, 2]], np.int32), [[0], [1]], scores=np.array(scores))


def test_scores_at_padding_are_ignored() -> None:
    scores = np.array([[1.0, 1.0, np.nan, 7.0]])
    assert measure_rankings([MRR(1)], np.array([[3, 2, -1, -1]], np.int32), [[3]], scores=scores) == {"MRR@1": [1.0]}


def test_qrels_deduplicate_rows_with_the_highest_grade() -> None:
    qrels = Qrels.of([[7, 3, 7, 5], [2]], [[1, 2, 4, -1], [1]])
    assert qrels.rows.tolist() == [7, 3, 2]
    assert qrels.grades.tolist() == [4, 2, 1]
    assert qrels.starts.tolist() == [0, 2, 3]
    assert (qrels.relevant_counts.tolist(), qrels.queries.tolist()) == ([2, 1], [0, 0, 1])


@pytest.mark.parametrize(
    ("starts", "rows", "grades", "sentence"),
    [
        ([0, 2], [1], None, "must rise from 0 to 1"),
        ([], [], None, "must rise from 0 to 0"),
        ([0, 2, 1, 3], [1, 2, 3], None, "must rise from 0 to 3"),
        ([0, 1], [1], [1.0, 2.0], "2 grades for 1 judged rows"),
        ([0, 1, 2], [1, -1], None, "qrels of query 1 name row -1 with grade 1"),
        ([0, 1, 2], [1, 2], [1.0, np.nan], "name row 2 with grade nan"),
    ],
)
def test_invalid_qrels_are_refused(
    starts: list[int], rows: list[int], grades: list[float] | None, sentence: str
) -> None:
    with pytest.raises(AceFinetuneError, match=sentence):
        Qrels.from_csr(starts, rows, grades)


def test_grades_must_match_rows() -> None:
    with pytest.raises(AceFinetuneError, match="Rows and grades of a query differ in number"):
        Qrels.of([[1], [2, 3]], [[1, 1], [1]])


# ------------------------------------------------------------------------------------------------ references


def random_run(seed: int, queries: int, depth: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Rankings of 0 to `depth` of 20 rows, and per query 1 to 8 judged rows with grades from 0, one above 0."""
    generator = np.random.default_rng(seed)
    rankings = np.full((queries, depth), -1, np.int32)
    relevant, grades = [], []
    for row in rankings:
        found = generator.permutation(20)[: generator.integers(0, depth + 1)]
        row[: len(found)] = found
        relevant.append(generator.permutation(20)[: generator.integers(1, 9)])
        grades.append(np.concatenate([[generator.integers(1, 4)], generator.integers(0, 4, len(relevant[-1]) - 1)]))
    return rankings, relevant, grades


def as_dictionaries(
    rankings: np.ndarray, relevant: list[np.ndarray], grades: list[np.ndarray]
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    judged = zip(relevant, grades, strict=True)
    qrels = {
        f"q{n}": {f"d{row}": int(grade) for row, grade in zip(rows, values, strict=True)}
        for n, (rows, values) in enumerate(judged)
    }
    run = {
        f"q{n}": {f"d{row}": float(100 - place) for place, row in enumerate(ranking) if row >= 0}
        for n, ranking in enumerate(rankings.tolist())
    }
    return qrels, run


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 15))
@settings(max_examples=60)
def test_values_equal_trec_eval(seed: int, queries: int, depth: int) -> None:
    rankings, relevant, grades = random_run(seed, queries, depth)
    qrels, run = as_dictionaries(rankings, relevant, grades)
    names = {"success.1,5", "recall.5", "ndcg_cut.3,10", "map_cut.3,100"}
    whole = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    # trec_eval's reciprocal rank has no cut-off, so the run is cut for it.
    _, cut_run = as_dictionaries(rankings[:, :10], relevant, grades)
    cut = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(cut_run)
    qrels = Qrels.of(relevant, grades)
    for measure, results, name in (
        (Success(1), whole, "success_1"),
        (Success(5), whole, "success_5"),
        (Recall(5), whole, "recall_5"),
        (NDCG(3), whole, "ndcg_cut_3"),
        (NDCG(10), whole, "ndcg_cut_10"),
        (MAP(3), whole, "map_cut_3"),
        (MAP(100), whole, "map_cut_100"),
        (MRR(10), cut, "recip_rank"),
    ):
        # A query with an empty run is not in trec_eval's output; it counts as 0.
        expected = [results.get(f"q{n}", {}).get(name, 0.0) for n in range(queries)]
        assert per_query(measure, rankings, qrels).tolist() == pytest.approx(expected)


def test_values_equal_ir_measures() -> None:
    rankings, relevant, grades = random_run(5, 200, 15)
    qrels, run = as_dictionaries(rankings, relevant, grades)
    theirs = [ir_measures.parse_measure(name) for name in ("Success@5", "R@5", "RR@10", "nDCG@10", "AP@100")]
    found: dict[tuple[str, str], float] = {
        (str(one.measure), one.query_id): one.value for one in ir_measures.iter_calc(theirs, qrels, run)
    }
    qrels = Qrels.of(relevant, grades)
    for ours, other in zip(EVERY, theirs, strict=True):
        expected = [found[str(other), f"q{n}"] for n in range(200)]
        assert per_query(ours, rankings, qrels).tolist() == pytest.approx(expected), str(other)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_measures_are_in_0_to_1_and_monotonic_in_k(seed: int) -> None:
    rankings, relevant, grades = random_run(seed, 6, 12)
    qrels = Qrels.of(relevant, grades)
    for kind in (Success, Recall, MRR, MAP):
        values = np.stack([per_query(kind(k), rankings, qrels) for k in (1, 2, 5, 12)])
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()
        assert (np.diff(values, axis=0) >= -1e-12).all()
    assert (per_query(NDCG(12), rankings, qrels) <= 1 + 1e-12).all()
    order = [rows[np.argsort(-values, kind="stable")] for rows, values in zip(relevant, grades, strict=True)]
    best = np.array([np.pad(rows, (0, 12 - len(rows)), constant_values=-1) for rows in order], np.int32)
    assert per_query(NDCG(12), best, qrels).tolist() == pytest.approx([1.0] * 6)


def test_large_input_in_blocks() -> None:
    generator = np.random.default_rng(0)
    rankings = np.argsort(generator.random((3000, 900)), axis=1).astype(np.int32)
    relevant = generator.integers(0, 900, 3000)
    ranks = (rankings == relevant[:, None]).argmax(axis=1) + 1
    values = per_query(MRR(900), rankings, relevant[:, None])  # type: ignore[arg-type]
    assert values.tolist() == pytest.approx((1 / ranks).tolist())
    rankings[2999, 899] = rankings[2999, 0]
    with pytest.raises(AceFinetuneError, match="query at position 2999 holds the same row twice"):
        per_query(MRR(900), rankings, relevant[:, None])  # type: ignore[arg-type]
