"""The index of character n-grams: scikit-learn's scores, updates, and exact scores of given rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.ranking import char_ngrams
from llama_index_ace_finetune.ranking.char_ngrams import CharNgramIndex
from llama_index_ace_finetune.ranking.lexical_indexes import build_lexical_index

TEXTS = [
    "Restart the cache after a DEPLOY",
    "cached caches caching",
    "İstanbul naïve café ﬁne",
    "",
    "a bb ccc a",
    "E1234: getUserName failed\tin  module x",
    "东京 データ",
]
_words = st.text(st.sampled_from("abcé Aß1 "), max_size=14)


def _reference(texts: list[str], queries: list[str]) -> np.ndarray:
    vectorizer = pytest.importorskip("sklearn.feature_extraction.text").TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True
    )
    documents = vectorizer.fit_transform(texts)
    return (vectorizer.transform(queries) @ documents.T).toarray()


@settings(max_examples=30)
@given(st.lists(_words, min_size=1, max_size=8), _words)
def test_scores_equal_scikit_learn(texts: list[str], query: str) -> None:
    texts = [*texts, "some word"]  # scikit-learn refuses an empty vocabulary
    expected = _reference(texts, [query])[0]
    index = CharNgramIndex.build(texts)
    np.testing.assert_allclose(index.scores(query), expected, atol=1e-12)
    rows, scores = index.search(query, len(texts))
    assert set(rows) == set(np.flatnonzero(expected > 1e-12))
    np.testing.assert_allclose(scores, expected[rows], atol=1e-6)


def test_scripts_and_short_words_equal_scikit_learn() -> None:
    queries = ["cachs", "istanbul", "bb", "a", "データ", "E1235 username", "unknown!", ""]
    index = CharNgramIndex.build(TEXTS)
    for query, expected in zip(queries, _reference(TEXTS, queries), strict=True):
        np.testing.assert_allclose(index.scores(query), expected, atol=1e-12)


def test_a_typing_error_still_finds_the_word() -> None:
    index = CharNgramIndex.build(["the database connection", "an unrelated memory"])
    rows, scores = index.search("databse conection", 2)
    assert rows.tolist() == [0]
    assert 0 < scores[0] < 1


def test_a_text_has_cosine_one_with_itself() -> None:
    rows, scores = CharNgramIndex.build(TEXTS).search(TEXTS[5], 1)
    assert rows.tolist() == [5]
    assert scores[0] == pytest.approx(1.0)


@settings(max_examples=40)
@given(st.lists(_words, max_size=8), st.lists(_words, max_size=4), st.data())
def test_add_and_remove_equal_a_rebuild(texts: list[str], more: list[str], data: st.DataObject) -> None:
    index = CharNgramIndex.build(texts)
    index.add(more)
    together = texts + more
    removed = data.draw(st.lists(st.integers(0, len(together) - 1), unique=True)) if together else []
    index.remove(removed)
    kept = [row for row in range(len(together)) if row not in removed]
    query = data.draw(_words)
    rebuilt = CharNgramIndex.build([together[row] for row in kept])
    np.testing.assert_allclose(index.scores(query)[kept], rebuilt.scores(query), atol=1e-12)


@pytest.mark.parametrize("block", [1, 3, 1 << 18])
def test_blocks_do_not_change_the_result(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = CharNgramIndex.build(TEXTS).scores("cache getUser a")
    monkeypatch.setattr(char_ngrams, "_BLOCK", block)
    np.testing.assert_array_equal(CharNgramIndex.build(TEXTS).scores("cache getUser a"), expected)


def test_score_of_rows_equals_scores() -> None:
    index = CharNgramIndex.build(TEXTS * 5)
    rows = np.random.default_rng(0).permutation(index.n_rows)
    for query in ("caching deploy", "a", "", "nothing known 999"):
        np.testing.assert_array_equal(index.score(query, rows), index.scores(query)[rows])


def test_empty_index_finds_nothing() -> None:
    assert CharNgramIndex.build([]).search("word", 3)[0].tolist() == []


def test_unstemmed_bm25_matches_only_the_same_form() -> None:
    texts = ["the cached value", "caching values"]
    stemmed, unstemmed = (build_lexical_index(leg, texts) for leg in ("bm25", "bm25_unstemmed"))
    assert sorted(stemmed.search("caches", 2)[0]) == [0, 1]
    assert unstemmed.search("caches", 2)[0].tolist() == []
    assert unstemmed.search("cached", 2)[0].tolist() == [0]
    assert isinstance(build_lexical_index("char_ngrams", texts), CharNgramIndex)
