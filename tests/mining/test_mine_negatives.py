from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.mining.mine import MinedNegatives, mine_negatives
from llama_index_ace_finetune.mining.report import mining_report, require_some
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.sources import DenseSource


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
        settings=MiningSettings(**options),  # type: ignore[arg-type]
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
    rows, result = mined([1, 2, 3], corpus=corpus, right=[0], relative_margin=0.95)
    assert rows == [3]
    assert result.filtered == {"above the margin": 2}
    assert mined([1, 2, 3], corpus=corpus, right=[0])[0] == [1, 2, 3]


def test_the_margin_of_a_negative_cosine_lies_below_it() -> None:
    # cos 120 = -.5, so the limit is -.525: cos 121 = -.515 is above it, cos 122 = -.530 is not.
    corpus = angles(120, -121, -122, -90)
    rows, _ = mined([3, 1, 2], corpus=corpus, right=[0], relative_margin=0.95)
    assert rows == [2]


def test_the_worst_right_answer_sets_the_margin() -> None:
    corpus = angles(10, 80, -50)
    assert mined([2], corpus=corpus, right=[0], relative_margin=0.95)[0] == [2]
    assert mined([2], corpus=corpus, right=[0, 1], relative_margin=0.95)[0] == []


def test_rows_that_were_judged_wrong_come_first_and_pass_the_guesses() -> None:
    corpus = angles(0, 2, 60, 80)
    rows, result = mined([1, 2, 3], corpus=corpus, right=[0], wrong=[1, 3], relative_margin=0.95)
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
    assert mining_report(result, queries=1, wanted=5) == {
        "queries": 1,
        "wanted_per_query": 5,
        "candidates": 2,
        "filtered": {"right answer": 1},
        "kept": 1,
        "distinct": 1,
        "queries_with_fewer": 1,
        "suspicious": False,
    }


def test_no_more_than_wanted() -> None:
    assert mined([1, 2, 3], corpus=angles(0, 40, 60, 80), right=[0], count=2)[0] == [1, 2]
    assert mined([1, 2, 3], corpus=angles(0, 40, 60, 80), right=[0], count=0)[0] == []


def test_right_answers_at_the_top_do_not_use_up_the_depth() -> None:
    corpus = angles(0, 1, 2, 60, 90)
    result = mine_negatives(
        query_vectors=angles(0),
        corpus_vectors=corpus,
        relevant=[np.array([0, 1, 2])],
        sources=[DenseSource(angles(0), corpus)],
        count=1,
        settings=MiningSettings(top_k=1),
    )
    assert [negative.row for negative in result.negatives[0]] == [3]


# ------------------------------------------------------------------------------------------------ nothing left


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"corpus": angles(0, 2, 3, 90), "right": [0]}, "near-duplicate"),
        ({"corpus": angles(60, 10, 20, 30), "right": [0], "relative_margin": 0.9}, "above the margin"),
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
        settings=MiningSettings(),
    )
    report = mining_report(result, queries=600, wanted=1)
    assert (report["kept"], report["distinct"], report["suspicious"]) == (600, 1, True)


@pytest.mark.parametrize("options", [{"top_k": 0}, {"near_duplicate": 0.0}, {"near_duplicate": 1.1}])
def test_settings_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(AceFinetuneError, match=next(iter(options))):
        MiningSettings(**options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ always true


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.sampled_from([None, 0.9, 1.0]))
@settings(deadline=None, max_examples=60)
def test_what_is_kept_passed_every_filter_and_the_counts_add_up(seed: int, count: int, margin: float | None) -> None:
    generator = np.random.default_rng(seed)
    corpus, queries = angles(*generator.uniform(0, 360, 12)), angles(*generator.uniform(0, 360, 5))
    right = [generator.choice(12, generator.integers(1, 4), replace=False) for _ in queries]
    excluded = generator.random(12) < 0.3
    result = mine_negatives(
        query_vectors=queries,
        corpus_vectors=corpus,
        relevant=right,
        sources=[DenseSource(queries, corpus)],
        count=count,
        settings=MiningSettings(relative_margin=margin),
        excluded=excluded,
    )
    passed = result.candidates - sum(result.filtered.values())
    assert result.kept <= passed <= result.candidates == 5 * 12
    for query, negatives, rows in zip(queries, result.negatives, right, strict=True):
        found = [negative.row for negative in negatives]
        assert len(found) <= count
        assert max(Counter(found).values(), default=0) <= 1
        assert not set(found) & set(rows.tolist())
        assert not excluded[found].any()
        assert [negative.rank for negative in negatives] == sorted(negative.rank for negative in negatives)
        for row in found:
            assert (corpus[rows] @ corpus[row]).max() < 0.95
            if margin is not None:
                positive = (corpus[rows] @ query).min()
                assert corpus[row] @ query <= positive - abs(positive) * (1 - margin) + 1e-6
