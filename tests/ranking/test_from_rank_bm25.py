"""Conversion of rank-bm25 indexes keeps their scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25L, BM25Okapi, BM25Plus

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer, TokenizerSettings

TERMS = st.lists(st.sampled_from(["red", "green", "Blue", "the", "E42", "猫", "of"]), max_size=8)
CORPUS = [["disk", "full", "disk"], ["fan", "noise"], ["Disk", "the"], []]


@pytest.mark.parametrize("kind", [BM25Okapi, BM25L, BM25Plus])
@settings(max_examples=60)
@given(
    corpus=st.lists(TERMS, min_size=1, max_size=10).filter(any),
    query=TERMS,
    k1=st.sampled_from([0.5, 1.5]),
    b=st.sampled_from([0.0, 0.6]),
    last=st.none() | st.sampled_from([0.0, 0.25, 1.5]),
)
def test_scores_equal_rank_bm25(
    kind: type, corpus: list[list[str]], query: list[str], k1: float, b: float, last: float | None
) -> None:
    extra = {} if last is None else {"epsilon" if kind is BM25Okapi else "delta": last}
    theirs = kind(corpus, k1=k1, b=b, **extra)
    ours = BM25Index.from_rank_bm25(theirs)
    expected = theirs.get_scores(query)
    np.testing.assert_allclose(ours.scores(query), expected, rtol=1e-9, atol=1e-9)
    rows, scores = ours.search(query, len(corpus))
    np.testing.assert_allclose(scores, expected[rows], rtol=1e-5, atol=1e-6)
    assert sorted(rows.tolist()) == [row for row, terms in enumerate(corpus) if set(terms) & set(query)]


def test_parameters_are_those_of_rank_bm25() -> None:
    ours = BM25Index.from_rank_bm25(BM25Okapi(CORPUS))
    assert (ours.settings.variant, ours.settings.k1, ours.settings.b, ours.settings.epsilon) == (
        "okapi",
        1.5,
        0.75,
        0.25,
    )
    assert BM25Index.from_rank_bm25(BM25L(CORPUS)).settings.effective_delta == 0.5
    assert BM25Index.from_rank_bm25(BM25Plus(CORPUS)).settings.effective_delta == 1


def test_given_tokenizer_is_used_for_queries_and_added_texts(tmp_path: Path) -> None:
    plain = Tokenizer(TokenizerSettings(stemming=False, stop_words=False, lowercase=False))
    ours = BM25Index.from_rank_bm25(BM25Plus(CORPUS), tokenizer=plain)
    assert ours.scores("Disk the").tolist() == ours.scores(["Disk", "the"]).tolist()
    assert ours.search("Disk", 3)[0].tolist() == [2]
    assert ours.add(["Disk fan"]).tolist() == [4]
    theirs = BM25Plus([*CORPUS, ["Disk", "fan"]])
    np.testing.assert_allclose(ours.scores("Disk fan"), theirs.get_scores(["Disk", "fan"]), rtol=1e-9)
    ours.save(tmp_path / "bm25")
    np.testing.assert_allclose(BM25Index.load(tmp_path / "bm25").scores(["fan"]), theirs.get_scores(["fan"]), rtol=1e-9)


class OtherBM25(BM25Okapi):
    pass


def changed_idf() -> BM25Okapi:
    bm25 = BM25Okapi(CORPUS)
    bm25.idf["fan"] = 9.0
    return bm25


def removed_document() -> BM25Okapi:
    bm25 = BM25Okapi(CORPUS)
    bm25.doc_freqs.pop()
    return bm25


@pytest.mark.parametrize(
    ("bm25", "message"),
    [
        ("an index", "A str cannot be converted; give a BM25Okapi, BM25L or BM25Plus"),
        (OtherBM25(CORPUS), "A OtherBM25 cannot be converted"),
        (BM25Okapi([[1, 2], [3]]), "holds the term 1; its terms must be strings"),
        (BM25Okapi(CORPUS, k1=-1), "BM25's k1 is -1"),
        (changed_idf(), "do not match its documents"),
        (removed_document(), "do not match its documents"),
    ],
)
def test_unsupported_indexes_are_refused(bm25: object, message: str) -> None:
    with pytest.raises(AceFinetuneError, match=message) as refusal:
        BM25Index.from_rank_bm25(bm25)
    assert "\n" not in str(refusal.value)
