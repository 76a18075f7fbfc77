from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from mining_options import plain

from llama_index_ace_finetune.errors import DatasetError, ModelError
from llama_index_ace_finetune.mining.filters import NEARER_ANSWER as NEARER
from llama_index_ace_finetune.mining.hard_negatives import mine_negatives
from llama_index_ace_finetune.mining.report import mining_report, require_some
from llama_index_ace_finetune.mining.results import MinedNegatives, RelaxedStep
from llama_index_ace_finetune.mining.sources import UNKNOWN, DenseSource


@dataclass(frozen=True)
class Ranking:
    """A source whose ranking is written down."""

    name: str
    rows: tuple[tuple[int, ...], ...]

    def search(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        width = max(map(len, self.rows))
        found = [list(self.rows[row]) + [-1] * (width - len(self.rows[row])) for row in rows]
        indices = np.array(found, np.int32).reshape(len(rows), width)[:, :k]
        return indices, np.linspace(1, 0.5, indices.shape[1], dtype=np.float32) * np.ones_like(indices, np.float32)


def angles(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane: the cosine of two is the cosine of the angle between them."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def mined(
    ranking: list[int],
    *,
    corpus: np.ndarray,
    right: list[int],
    count: int = 10,
    query: float = 0.0,
    wrong: list[int] | None = None,
    excluded: list[int] | None = None,
    sources: list[Ranking] | None = None,
    **options: object,
) -> tuple[list[int], MinedNegatives]:
    mask = np.isin(np.arange(len(corpus)), excluded or [])
    result = mine_negatives(
        query_vectors=angles(query),
        corpus_vectors=corpus,
        relevant=[np.array(right, np.int64)],
        judged_wrong=None if wrong is None else [np.array(wrong, np.int64)],
        sources=sources or [Ranking("dense", (tuple(ranking),))],
        count=count,
        settings=plain(**options),  # type: ignore[arg-type]
        excluded=mask,
    )
    return [negative.row for negative in result.negatives[0]], result


# ------------------------------------------------------------------------------------------------ hand cases


def test_known_right_answers_are_never_negatives() -> None:
    rows, result = mined([0, 1, 2, 3], corpus=angles(10, 60, 100, 150), right=[0, 2])
    assert rows == [1, 3]
    assert result.filtered == {"right answer": 2}
    assert result.candidates == 4


def test_rank_score_and_source_tell_where_a_negative_came_from() -> None:
    _, result = mined([1, 0, 2], corpus=angles(10, 60, 100), right=[0])
    first, second = result.negatives[0]
    assert (first.row, first.source, first.rank, first.score) == (1, "dense", 1, 1.0)
    assert (second.row, second.rank, second.score) == (2, 3, 0.5)


def test_what_lies_nearer_a_right_answer_than_the_query_does_is_taken_for_one() -> None:
    # The query at 0 and its answer at 30 have cosine .87; rows at 45 and 70 have .97 and .77 with the answer.
    corpus = angles(30, 45, 70, 180)
    assert mined([1, 2, 3], corpus=corpus, right=[0], near_duplicate=1, nearer_answer=1.0)[0] == [2, 3]
    # .87 * .8 = .69, which is less than .77
    rows, result = mined([1, 2, 3], corpus=corpus, right=[0], near_duplicate=1, nearer_answer=0.8)
    assert rows == [3]
    assert result.filtered == {NEARER: 2}
    assert mined([1, 2, 3], corpus=corpus, right=[], nearer_answer=0.8)[0] == [1, 2, 3]
    assert mined([1, 2, 3], corpus=corpus, right=[0], nearer_answer=0.8, wrong=[1])[0] == [1, 3]


def test_near_duplicates_of_a_right_answer_are_taken_for_it() -> None:
    # cos 5 = .996, cos 17 = .956, cos 19 = .946
    corpus = angles(0, 5, 17, 19)
    rows, result = mined([0, 1, 2, 3], corpus=corpus, right=[0])
    assert rows == [3]
    assert result.filtered == {"right answer": 1, "near-duplicate": 2}
    rows, _ = mined([0, 1, 2, 3], corpus=corpus, right=[0], near_duplicate=0.99)
    assert rows == [2, 3]


def test_held_out_answers_are_for_nobody() -> None:
    rows, result = mined([1, 2, 3], corpus=angles(0, 40, 60, 80), right=[0], excluded=[2])
    assert rows == [1, 3]
    assert result.filtered == {"held-out answer": 1}


def test_held_out_answers_stay_out_for_a_query_without_a_right_answer() -> None:
    rows, _ = mined([1, 2], corpus=angles(0, 40, 60), right=[], excluded=[2])
    assert rows == [1]


def test_the_margin_is_a_share_of_the_right_answers_cosine() -> None:
    # The right answer stands at cos 60 = .5, so the limit is .475: cos 61 = .485 is above it, cos 62 = .469 is not.
    corpus = angles(60, -10, -61, -62)
    rows, result = mined([1, 2, 3], corpus=corpus, right=[0], relative_margin=0.05)
    assert rows == [3]
    assert result.filtered == {"above the relative margin": 2}
    assert mined([1, 2, 3], corpus=corpus, right=[0])[0] == [1, 2, 3]


def test_the_margin_of_a_negative_cosine_lies_below_it() -> None:
    # cos 120 = -.5, so the limit is -.525: cos 121 = -.515 is above it, cos 122 = -.530 is not.
    corpus = angles(120, -121, -122, -90)
    rows, _ = mined([3, 1, 2], corpus=corpus, right=[0], relative_margin=0.05)
    assert rows == [2]


def test_the_worst_right_answer_sets_the_margin() -> None:
    corpus = angles(10, 80, -50)
    assert mined([2], corpus=corpus, right=[0], relative_margin=0.05)[0] == [2]
    assert mined([2], corpus=corpus, right=[0, 1], relative_margin=0.05)[0] == []


def test_rows_that_were_judged_wrong_come_first_and_pass_the_guesses() -> None:
    corpus = angles(0, 2, 60, 80)
    rows, result = mined([1, 2, 3], corpus=corpus, right=[0], wrong=[1, 3], relative_margin=0.05)
    assert rows == [1, 3, 2]
    assert [(n.source, n.rank) for n in result.negatives[0]] == [("judged", 0), ("judged", 0), ("dense", 2)]


def test_a_judgement_opens_neither_right_nor_held_out_answers() -> None:
    rows, result = mined([2], corpus=angles(0, 40, 60), right=[0], wrong=[0, 1], excluded=[1])
    assert rows == [2]
    assert result.filtered == {"right answer": 1, "held-out answer": 1}


def test_sources_take_turns_and_a_row_keeps_its_best_rank() -> None:
    sources = [Ranking("collection", ((1, 2, 3),)), Ranking("bm25", ((3, 4),))]
    rows, result = mined([], corpus=angles(0, 40, 60, 80, 100), right=[0], sources=sources)
    assert rows == [1, 3, 2, 4]
    assert [n.source for n in result.negatives[0]] == ["collection", "bm25", "collection", "bm25"]
    assert result.candidates == 4


def test_fewer_candidates_are_not_padded() -> None:
    rows, result = mined([0, 1], corpus=angles(0, 60, 90, 120), right=[0], count=5)
    assert rows == [1]
    report = mining_report(result, queries=1, wanted=5)
    histograms = report.pop("histograms")
    assert report == {
        "queries": 1,
        "wanted_per_query": 5,
        "candidates": 2,
        "candidates_per_source": {"dense": 2},
        "filtered": {"right answer": 1},
        "passing": {"right answer": 0.5, "held-out answer": 1.0, "near-duplicate": 1.0},
        "relaxed": [],
        "kept": 1,
        "not_needed": 0,
        "distinct": 1,
        "queries_with_fewer": 1,
        "suspicious": False,
    }
    assert (sum(histograms["positives"]), sum(histograms["kept"])) == (1, 1)


def test_no_more_than_wanted() -> None:
    assert mined([1, 2, 3], corpus=angles(0, 40, 60, 80), right=[0], count=2)[0] == [1, 2]
    assert mined([1, 2, 3], corpus=angles(0, 40, 60, 80), right=[0], count=0)[0] == []


def test_the_window_is_of_true_ranks() -> None:
    # Rows lie in the order of the ranking; the first two are right, the third is near the first.
    corpus = angles(0, 1, 5, 60, 70, 80, 90)
    sources = [DenseSource(angles(0), corpus)]
    rows, _ = mined([], corpus=corpus, right=[0, 1], sources=sources, range_max=5)
    assert rows == [3, 4]
    rows, result = mined([], corpus=corpus, right=[0, 1], sources=sources, range_max=6, range_min=4)
    assert rows == [4, 5]
    assert result.filtered == {"right answer": 2, "near-duplicate": 1, "outside the rank window": 1}
    assert mined([], corpus=corpus, right=[0, 1], sources=sources, range_max=2)[0] == []


def test_a_row_that_any_source_ranks_above_the_window_is_out() -> None:
    sources = [Ranking("collection", ((1, 2, 3),)), Ranking("bm25", ((2, 3, 1),))]
    rows, result = mined([], corpus=angles(0, 40, 60, 80), right=[0], sources=sources, range_max=3, range_min=1)
    assert rows == [3]
    assert result.filtered == {"outside the rank window": 2}


def test_the_absolute_margin_is_taken_off_the_worst_right_answer() -> None:
    # cos 60 = .5: with .1 off, the limit is .4; cos 66 = .407, cos 67 = .391.
    corpus = angles(10, 60, -66, -67)
    rows, result = mined([2, 3], corpus=corpus, right=[0, 1], absolute_margin=0.1)
    assert rows == [3]
    assert result.filtered == {"above the absolute margin": 1}


def test_the_maximum_score_needs_no_right_answer() -> None:
    rows, result = mined([0, 1], corpus=angles(44, 46), right=[], max_score=0.7071)
    assert rows == [1]
    assert result.filtered == {"above the maximum score": 1}
    # A margin has nothing to go by there, and refuses nothing.
    assert mined([0, 1], corpus=angles(44, 46), right=[], relative_margin=0.5, absolute_margin=1)[0] == [0, 1]


def test_a_candidate_counts_for_the_first_filter_that_refuses_it() -> None:
    _, result = mined([1], corpus=angles(60, 20), right=[0], max_score=0.9, absolute_margin=0.1, relative_margin=0.1)
    assert result.filtered == {"above the maximum score": 1}
    assert result.passing_shares == {
        "right answer": 1.0,
        "held-out answer": 1.0,
        "near-duplicate": 1.0,
        "above the maximum score": 0.0,
        "above the absolute margin": None,
        "above the relative margin": None,
    }


def test_every_source_keeps_its_rank_and_score() -> None:
    sources = [Ranking("collection", ((1, 2, 3),)), Ranking("bm25", ((3, 4),))]
    _, result = mined([], corpus=angles(0, 40, 60, 80, 100), right=[0], sources=sources)
    hits = [[(hit.source, hit.rank, hit.score) for hit in negative.hits] for negative in result.negatives[0]]
    assert hits[1] == [("collection", 3, 0.5), ("bm25", 1, 1.0)]
    assert hits[0] == [("collection", 1, 1.0)]
    assert result.found == {"judged": 0, "collection": 3, "bm25": 2}


def test_a_judged_row_that_a_source_found_too_shows_both() -> None:
    _, result = mined([2, 1], corpus=angles(0, 60, 90), right=[0], wrong=[1])
    first = result.negatives[0][0]
    assert (first.row, first.source, first.rank, first.score) == (1, "judged", 0, None)
    assert [(hit.source, hit.rank) for hit in first.hits] == [("judged", 0), ("dense", 2)]
    assert first.similarity == pytest.approx(0.5)


def test_hits_outside_the_corpus_are_counted() -> None:
    rows, result = mined([UNKNOWN, 1, UNKNOWN], corpus=angles(0, 60), right=[0])
    assert rows == [1]
    assert result.negatives[0][0].rank == 2
    assert (result.candidates, result.filtered) == (3, {"unknown id": 2})
    with pytest.raises(DatasetError, match=r"All 2 candidates .* 2 of them as 'unknown id'"):
        require_some(mined([UNKNOWN, UNKNOWN], corpus=angles(0, 60), right=[0])[1])


# ------------------------------------------------------------------------------------------------ relaxation


def test_short_queries_are_filled_up_step_by_step() -> None:
    # The right answer stands at cos 60 = .5; candidates at .940, .574, .485 and .174; 5 is near the right answer.
    corpus = angles(60, -20, -55, -61, -80, 62)
    options = {"corpus": corpus, "right": [0], "relative_margin": 0.1}
    ranking = [1, 2, 3, 4, 5, 0]
    assert mined(ranking, **options)[0] == [4]
    rows, result = mined(ranking, **options, relaxation=(0.0, None))
    # What a step lets through comes after what passed before it, whatever the rank.
    assert rows == [4, 3, 1, 2]
    assert [(step.relative_margin, step.queries, step.negatives) for step in result.relaxed] == [
        (0.0, 1, 1),
        (None, 1, 2),
    ]
    assert result.filtered == {"right answer": 1, "near-duplicate": 1}
    rows, result = mined(ranking, **options, relaxation=(0.0, None), count=2)
    assert rows == [4, 3]
    assert result.relaxed == (RelaxedStep(0.0, 1, 1), RelaxedStep(None, 0, 0))
    assert result.filtered == {"right answer": 1, "near-duplicate": 1, "above the relative margin": 2}
    rows, result = mined(ranking, **options, relaxation=(None,), count=2)
    assert (rows, result.not_needed) == ([4, 1], 2)


def test_other_filters_are_not_relaxed() -> None:
    corpus = angles(60, -20, -55, -61, -80)
    rows, _ = mined([1, 2, 3, 4], corpus=corpus, right=[0], relative_margin=0.1, max_score=0.6, relaxation=(None,))
    assert rows == [4, 2, 3]


# ------------------------------------------------------------------------------------------------ a teacher


def test_margins_go_by_the_teacher_where_there_is_one() -> None:
    asked = []

    def rescore(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        asked.extend(zip(queries.tolist(), rows.tolist(), strict=True))
        return np.array([{0: 2.0, 2: -3.0, 3: 1.95, 4: 1.8}[row] for row in rows.tolist()], np.float32)

    corpus = angles(0, 5, 60, 80, 100)
    result = mine_negatives(
        query_vectors=angles(0),
        corpus_vectors=corpus,
        relevant=[np.array([0])],
        sources=[Ranking("dense", ((0, 1, 2, 3, 4),))],
        count=5,
        settings=plain(relative_margin=0.05),
        rescore=rescore,
    )
    # Once, for all pairs; not for the right answer as a candidate, nor for its near-duplicate.
    assert asked == [(0, 0), (0, 2), (0, 3), (0, 4)]
    assert [(n.row, n.similarity) for n in result.negatives[0]] == [(2, -3.0), (4, pytest.approx(1.8))]
    assert result.histograms.scores == "teacher"
    assert result.histograms.edges[[0, -1]].tolist() == [-3.0, 2.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_teacher_is_told(value: float) -> None:
    with pytest.raises(ModelError, match="teacher gives NaN or infinite scores"):
        mine_negatives(
            query_vectors=angles(0),
            corpus_vectors=angles(0, 60),
            relevant=[np.array([0])],
            sources=[Ranking("dense", ((1,),))],
            count=1,
            settings=plain(relative_margin=0.05),
            rescore=lambda queries, rows: np.full(len(rows), value, np.float32),
        )


@pytest.mark.parametrize("where", ["query", "corpus"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_vectors_are_told_whatever_the_source(where: str, value: float) -> None:
    vectors = {"query": angles(0, 1), "corpus": angles(0, 60)}
    vectors[where][1, 0] = value
    with pytest.raises(ModelError, match=rf"{where} vectors hold NaN or infinity \(row 1\)"):
        mine_negatives(
            query_vectors=vectors["query"],
            corpus_vectors=vectors["corpus"],
            relevant=[np.array([0])] * 2,
            sources=[Ranking("retriever", ((1,), (1,)))],
            count=1,
            settings=plain(),
        )


def test_more_asked_than_there_is() -> None:
    corpus = angles(0, 60, 90)
    rows, _ = mined([], corpus=corpus, right=[0], count=50, sources=[DenseSource(angles(0), corpus)], range_max=10_000)
    assert rows == [1, 2]


def test_no_queries_at_all() -> None:
    result = mine_negatives(
        query_vectors=np.empty((0, 2), np.float32),
        corpus_vectors=angles(0, 60),
        relevant=[],
        sources=[DenseSource(np.empty((0, 2), np.float32), angles(0, 60))],
        count=3,
        settings=plain(relative_margin=0.1, relaxation=(None,), sampling_strategy="spread"),
    )
    assert (result.negatives, result.candidates) == ((), 0)
    require_some(result)


# ------------------------------------------------------------------------------------------------ nothing left


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"corpus": angles(0, 2, 3, 90), "right": [0]}, "near-duplicate"),
        ({"corpus": angles(60, 10, 20, 30), "right": [0], "relative_margin": 0.1}, "above the relative margin"),
        ({"corpus": angles(0, 50, 60, 70), "right": [0], "excluded": [1, 2]}, "held-out answer"),
        ({"corpus": angles(0, 50, 60, 70), "right": [0, 1, 2]}, "right answer"),
    ],
)
def test_where_nothing_is_left_the_filter_is_named(options: dict[str, object], name: str) -> None:
    _, result = mined([1, 2], **options)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=rf"All 2 candidates .* 2 of them as '{name}'"):
        require_some(result)


def test_no_candidates_at_all() -> None:
    with pytest.raises(DatasetError, match="the corpus needs more than the right answers"):
        require_some(mined([-1], corpus=angles(0, 50), right=[0])[1])


def test_few_distinct_negatives_are_suspicious() -> None:
    result = mine_negatives(
        query_vectors=np.repeat(angles(0), 600, axis=0),
        corpus_vectors=angles(0, 60),
        relevant=[np.array([0])] * 600,
        sources=[Ranking("dense", ((1,),) * 600)],
        count=1,
        settings=plain(),
    )
    report = mining_report(result, queries=600, wanted=1)
    assert (report["kept"], report["distinct"], report["suspicious"]) == (600, 1, True)
