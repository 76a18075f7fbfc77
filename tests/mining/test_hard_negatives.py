from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from mining_options import plain

from llama_index_ace_finetune.errors import DatasetError, ModelError
from llama_index_ace_finetune.mining.filters import CLOSER_TO_POSITIVE, KNOWN_POSITIVE
from llama_index_ace_finetune.mining.hard_negatives import mine_negatives
from llama_index_ace_finetune.mining.report import mining_report, require_negatives
from llama_index_ace_finetune.mining.results import MarginBackoffStep, MinedNegatives
from llama_index_ace_finetune.mining.sources import UNKNOWN, DenseSource


@dataclass(frozen=True)
class Ranking:
    """A source with given rankings."""

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
    relevant: list[int],
    count: int = 10,
    query: float = 0.0,
    judged_negatives: list[int] | None = None,
    excluded: list[int] | None = None,
    sources: list[Ranking] | None = None,
    **options: object,
) -> tuple[list[int], MinedNegatives]:
    mask = np.isin(np.arange(len(corpus)), excluded or [])
    result = mine_negatives(
        query_vectors=angles(query),
        corpus_vectors=corpus,
        relevant=[np.array(relevant, np.int64)],
        judged_negatives=None if judged_negatives is None else [np.array(judged_negatives, np.int64)],
        sources=sources or [Ranking("dense", (tuple(ranking),))],
        count=count,
        settings=plain(**options),  # type: ignore[arg-type]
        excluded=mask,
    )
    return [negative.row for negative in result.negatives[0]], result


# ------------------------------------------------------------------------------------------------ hand cases


def test_known_positives_are_never_negatives() -> None:
    rows, result = mined([0, 1, 2, 3], corpus=angles(10, 60, 100, 150), relevant=[0, 2])
    assert rows == [1, 3]
    assert result.filtered == {KNOWN_POSITIVE: 2}
    assert result.candidates == 4


def test_negative_keeps_source_rank_and_score() -> None:
    _, result = mined([1, 0, 2], corpus=angles(10, 60, 100), relevant=[0])
    first, second = result.negatives[0]
    assert (first.row, first.source, first.rank, first.score) == (1, "dense", 1, 1.0)
    assert (second.row, second.rank, second.score) == (2, 3, 0.5)


def test_candidates_closer_to_a_positive_than_the_query_are_rejected() -> None:
    # The query at 0 and its positive at 30 have cosine .87; rows at 45 and 70 have .97 and .77 with the positive.
    corpus = angles(30, 45, 70, 180)
    assert mined([1, 2, 3], corpus=corpus, relevant=[0], near_duplicate=1, nearer_answer=1.0)[0] == [2, 3]
    # .87 * .8 = .69, which is less than .77
    rows, result = mined([1, 2, 3], corpus=corpus, relevant=[0], near_duplicate=1, nearer_answer=0.8)
    assert rows == [3]
    assert result.filtered == {CLOSER_TO_POSITIVE: 2}
    assert mined([1, 2, 3], corpus=corpus, relevant=[], nearer_answer=0.8)[0] == [1, 2, 3]
    assert mined([1, 2, 3], corpus=corpus, relevant=[0], nearer_answer=0.8, judged_negatives=[1])[0] == [1, 3]


def test_near_duplicates_of_a_positive_are_rejected() -> None:
    # cos 5 = .996, cos 17 = .956, cos 19 = .946
    corpus = angles(0, 5, 17, 19)
    rows, result = mined([0, 1, 2, 3], corpus=corpus, relevant=[0])
    assert rows == [3]
    assert result.filtered == {KNOWN_POSITIVE: 1, "near-duplicate": 2}
    rows, _ = mined([0, 1, 2, 3], corpus=corpus, relevant=[0], near_duplicate=0.99)
    assert rows == [2, 3]


def test_held_out_positives_are_never_negatives() -> None:
    rows, result = mined([1, 2, 3], corpus=angles(0, 40, 60, 80), relevant=[0], excluded=[2])
    assert rows == [1, 3]
    assert result.filtered == {"held-out answer": 1}


def test_held_out_positives_are_rejected_for_a_query_without_a_positive() -> None:
    rows, _ = mined([1, 2], corpus=angles(0, 40, 60), relevant=[], excluded=[2])
    assert rows == [1]


def test_relative_margin_is_a_fraction_of_the_cosine_of_the_positive() -> None:
    # The positive has cos 60 = .5, so the limit is .475: cos 61 = .485 is above it, cos 62 = .469 is not.
    corpus = angles(60, -10, -61, -62)
    rows, result = mined([1, 2, 3], corpus=corpus, relevant=[0], relative_margin=0.05)
    assert rows == [3]
    assert result.filtered == {"above the relative margin": 2}
    assert mined([1, 2, 3], corpus=corpus, relevant=[0])[0] == [1, 2, 3]


def test_relative_margin_of_a_negative_cosine_is_below_it() -> None:
    # cos 120 = -.5, so the limit is -.525: cos 121 = -.515 is above it, cos 122 = -.530 is not.
    corpus = angles(120, -121, -122, -90)
    rows, _ = mined([3, 1, 2], corpus=corpus, relevant=[0], relative_margin=0.05)
    assert rows == [2]


def test_lowest_positive_sets_the_margin() -> None:
    corpus = angles(10, 80, -50)
    assert mined([2], corpus=corpus, relevant=[0], relative_margin=0.05)[0] == [2]
    assert mined([2], corpus=corpus, relevant=[0, 1], relative_margin=0.05)[0] == []


def test_judged_negatives_come_first_and_skip_other_filters() -> None:
    corpus = angles(0, 2, 60, 80)
    rows, result = mined([1, 2, 3], corpus=corpus, relevant=[0], judged_negatives=[1, 3], relative_margin=0.05)
    assert rows == [1, 3, 2]
    assert [(n.source, n.rank) for n in result.negatives[0]] == [("judged", 0), ("judged", 0), ("dense", 2)]


def test_judged_negatives_that_are_positives_or_held_out_are_rejected() -> None:
    rows, result = mined([2], corpus=angles(0, 40, 60), relevant=[0], judged_negatives=[0, 1], excluded=[1])
    assert rows == [2]
    assert result.filtered == {KNOWN_POSITIVE: 1, "held-out answer": 1}


def test_sources_are_merged_by_best_rank() -> None:
    sources = [Ranking("collection", ((1, 2, 3),)), Ranking("bm25", ((3, 4),))]
    rows, result = mined([], corpus=angles(0, 40, 60, 80, 100), relevant=[0], sources=sources)
    assert rows == [1, 3, 2, 4]
    assert [n.source for n in result.negatives[0]] == ["collection", "bm25", "collection", "bm25"]
    assert result.candidates == 4


def test_fewer_candidates_are_not_padded() -> None:
    rows, result = mined([0, 1], corpus=angles(0, 60, 90, 120), relevant=[0], count=5)
    assert rows == [1]
    report = mining_report(result, queries=1, wanted=5)
    histograms = report.pop("histograms")
    assert report == {
        "queries": 1,
        "wanted_per_query": 5,
        "candidates": 2,
        "candidates_per_source": {"dense": 2},
        "filtered": {KNOWN_POSITIVE: 1},
        "passing": {KNOWN_POSITIVE: 0.5, "held-out answer": 1.0, "near-duplicate": 1.0},
        "relaxed": [],
        "kept": 1,
        "not_needed": 0,
        "distinct": 1,
        "queries_with_fewer": 1,
        "suspicious": False,
    }
    assert (sum(histograms["positives"]), sum(histograms["kept"])) == (1, 1)


def test_at_most_count_negatives() -> None:
    assert mined([1, 2, 3], corpus=angles(0, 40, 60, 80), relevant=[0], count=2)[0] == [1, 2]
    assert mined([1, 2, 3], corpus=angles(0, 40, 60, 80), relevant=[0], count=0)[0] == []


def test_rank_window_counts_positives() -> None:
    # Rows are in ranking order; the first two are positives, the third is a near-duplicate of the first.
    corpus = angles(0, 1, 5, 60, 70, 80, 90)
    sources = [DenseSource(angles(0), corpus)]
    rows, _ = mined([], corpus=corpus, relevant=[0, 1], sources=sources, range_max=5)
    assert rows == [3, 4]
    rows, result = mined([], corpus=corpus, relevant=[0, 1], sources=sources, range_max=6, range_min=4)
    assert rows == [4, 5]
    assert result.filtered == {KNOWN_POSITIVE: 2, "near-duplicate": 1, "outside the rank window": 1}
    assert mined([], corpus=corpus, relevant=[0, 1], sources=sources, range_max=2)[0] == []


def test_row_that_any_source_ranks_above_the_window_is_rejected() -> None:
    sources = [Ranking("collection", ((1, 2, 3),)), Ranking("bm25", ((2, 3, 1),))]
    rows, result = mined([], corpus=angles(0, 40, 60, 80), relevant=[0], sources=sources, range_max=3, range_min=1)
    assert rows == [3]
    assert result.filtered == {"outside the rank window": 2}


def test_absolute_margin_is_subtracted_from_the_lowest_positive() -> None:
    # cos 60 = .5: minus .1, the limit is .4; cos 66 = .407, cos 67 = .391.
    corpus = angles(10, 60, -66, -67)
    rows, result = mined([2, 3], corpus=corpus, relevant=[0, 1], absolute_margin=0.1)
    assert rows == [3]
    assert result.filtered == {"above the absolute margin": 1}


def test_maximum_score_needs_no_positive() -> None:
    rows, result = mined([0, 1], corpus=angles(44, 46), relevant=[], max_score=0.7071)
    assert rows == [1]
    assert result.filtered == {"above the maximum score": 1}
    # Without a positive, margins reject nothing.
    assert mined([0, 1], corpus=angles(44, 46), relevant=[], relative_margin=0.5, absolute_margin=1)[0] == [0, 1]


def test_candidate_is_counted_for_the_first_filter_that_rejects_it() -> None:
    _, result = mined([1], corpus=angles(60, 20), relevant=[0], max_score=0.9, absolute_margin=0.1, relative_margin=0.1)
    assert result.filtered == {"above the maximum score": 1}
    assert result.acceptance_rates == {
        KNOWN_POSITIVE: 1.0,
        "held-out answer": 1.0,
        "near-duplicate": 1.0,
        "above the maximum score": 0.0,
        "above the absolute margin": None,
        "above the relative margin": None,
    }


def test_hits_keep_rank_and_score_of_every_source() -> None:
    sources = [Ranking("collection", ((1, 2, 3),)), Ranking("bm25", ((3, 4),))]
    _, result = mined([], corpus=angles(0, 40, 60, 80, 100), relevant=[0], sources=sources)
    hits = [[(hit.source, hit.rank, hit.score) for hit in negative.hits] for negative in result.negatives[0]]
    assert hits[1] == [("collection", 3, 0.5), ("bm25", 1, 1.0)]
    assert hits[0] == [("collection", 1, 1.0)]
    assert result.candidates_per_source == {"judged": 0, "collection": 3, "bm25": 2}


def test_judged_negative_that_a_source_found_has_both_hits() -> None:
    _, result = mined([2, 1], corpus=angles(0, 60, 90), relevant=[0], judged_negatives=[1])
    first = result.negatives[0][0]
    assert (first.row, first.source, first.rank, first.score) == (1, "judged", 0, None)
    assert [(hit.source, hit.rank) for hit in first.hits] == [("judged", 0), ("dense", 2)]
    assert first.similarity == pytest.approx(0.5)


def test_hits_outside_the_corpus_are_counted() -> None:
    rows, result = mined([UNKNOWN, 1, UNKNOWN], corpus=angles(0, 60), relevant=[0])
    assert rows == [1]
    assert result.negatives[0][0].rank == 2
    assert (result.candidates, result.filtered) == (3, {"unknown id": 2})
    with pytest.raises(DatasetError, match=r"All 2 candidates .* 2 of them as 'unknown id'"):
        require_negatives(mined([UNKNOWN, UNKNOWN], corpus=angles(0, 60), relevant=[0])[1])


# ------------------------------------------------------------------------------------------------ margin back-off


def test_short_queries_are_filled_up_by_the_margin_backoff() -> None:
    # The positive has cosine .5, the candidates .940, .574, .485 and .174; row 5 is a near-duplicate of the positive.
    corpus = angles(60, -20, -55, -61, -80, 62)
    options = {"corpus": corpus, "relevant": [0], "relative_margin": 0.1}
    ranking = [1, 2, 3, 4, 5, 0]
    assert mined(ranking, **options)[0] == [4]
    rows, result = mined(ranking, **options, relaxation=(0.0, None))
    # Re-admitted candidates come after those accepted before, whatever their rank.
    assert rows == [4, 3, 1, 2]
    assert [(step.relative_margin, step.queries, step.negatives) for step in result.backoff_steps] == [
        (0.0, 1, 1),
        (None, 1, 2),
    ]
    assert result.filtered == {KNOWN_POSITIVE: 1, "near-duplicate": 1}
    rows, result = mined(ranking, **options, relaxation=(0.0, None), count=2)
    assert rows == [4, 3]
    assert result.backoff_steps == (MarginBackoffStep(0.0, 1, 1), MarginBackoffStep(None, 0, 0))
    assert result.filtered == {KNOWN_POSITIVE: 1, "near-duplicate": 1, "above the relative margin": 2}
    rows, result = mined(ranking, **options, relaxation=(None,), count=2)
    assert (rows, result.not_needed) == ([4, 1], 2)


def test_margin_backoff_keeps_other_filters() -> None:
    corpus = angles(60, -20, -55, -61, -80)
    rows, _ = mined([1, 2, 3, 4], corpus=corpus, relevant=[0], relative_margin=0.1, max_score=0.6, relaxation=(None,))
    assert rows == [4, 2, 3]


# ------------------------------------------------------------------------------------------------ a teacher


def test_margins_use_teacher_scores() -> None:
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
    # One call for all pairs, without candidates that are positives or near-duplicates.
    assert asked == [(0, 0), (0, 2), (0, 3), (0, 4)]
    assert [(n.row, n.similarity) for n in result.negatives[0]] == [(2, -3.0), (4, pytest.approx(1.8))]
    assert result.histograms.scores == "teacher"
    assert result.histograms.edges[[0, -1]].tolist() == [-3.0, 2.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_teacher_with_nan_scores_is_refused(value: float) -> None:
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
def test_vectors_with_nan_are_refused(where: str, value: float) -> None:
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


def test_count_larger_than_the_number_of_candidates() -> None:
    corpus = angles(0, 60, 90)
    rows, _ = mined(
        [], corpus=corpus, relevant=[0], count=50, sources=[DenseSource(angles(0), corpus)], range_max=10_000
    )
    assert rows == [1, 2]


def test_no_queries() -> None:
    result = mine_negatives(
        query_vectors=np.empty((0, 2), np.float32),
        corpus_vectors=angles(0, 60),
        relevant=[],
        sources=[DenseSource(np.empty((0, 2), np.float32), angles(0, 60))],
        count=3,
        settings=plain(relative_margin=0.1, relaxation=(None,), sampling_strategy="spread"),
    )
    assert (result.negatives, result.candidates) == ((), 0)
    require_negatives(result)


# ------------------------------------------------------------------------------------------------ nothing left


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"corpus": angles(0, 2, 3, 90), "relevant": [0]}, "near-duplicate"),
        ({"corpus": angles(60, 10, 20, 30), "relevant": [0], "relative_margin": 0.1}, "above the relative margin"),
        ({"corpus": angles(0, 50, 60, 70), "relevant": [0], "excluded": [1, 2]}, "held-out answer"),
        ({"corpus": angles(0, 50, 60, 70), "relevant": [0, 1, 2]}, KNOWN_POSITIVE),
    ],
)
def test_filter_that_rejects_all_candidates_is_named(options: dict[str, object], name: str) -> None:
    _, result = mined([1, 2], **options)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=rf"All 2 candidates .* 2 of them as '{name}'"):
        require_negatives(result)


def test_no_candidates_are_refused() -> None:
    with pytest.raises(DatasetError, match="add documents to the corpus that are not positives"):
        require_negatives(mined([-1], corpus=angles(0, 50), relevant=[0])[1])


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
