from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25L, BM25Okapi, BM25Plus

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.bm25 import BM25Index, BM25Settings
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer

REFERENCES = {"okapi": BM25Okapi, "plus": BM25Plus, "l": BM25L}
VARIANTS = sorted(REFERENCES)

WORDS = st.sampled_from(
    ["red", "green", "blue", "disk", "disks", "full", "the", "E42", "get_user", "userName", "猫", "!"]
)
TEXT = st.lists(WORDS, max_size=8).map(" ".join)
TEXTS = st.lists(TEXT, max_size=12)


def found(index: BM25Index, query: str, k: int = 99) -> list[int]:
    return index.search(query, k)[0].tolist()


def reference_scores(index: BM25Index, texts: list[str], query: str) -> np.ndarray:
    s = index.settings
    extra = {"epsilon": s.epsilon} if s.variant == "okapi" else {"delta": s.effective_delta}
    model = REFERENCES[s.variant](index.tokenizer.batch(texts), k1=s.k1, b=s.b, **extra)
    with np.errstate(invalid="ignore"):
        return np.asarray(model.get_scores(index.tokenizer(query)))


# ------------------------------------------------------------------------------------------------ scores by hand


def test_plus_by_hand() -> None:
    # N = 3, mean length 2; "disk" is in 2 documents: once in a text of 2 terms, twice in one of 3.
    index = BM25Index.build(["disk full", "disk disk slow", "fan"], settings=BM25Settings(k1=1.0, b=0.5, delta=1.0))
    idf = math.log(4 / 2)
    first = idf * (1 + 1 * 2 / (1 + 1 * (0.5 + 0.5 * 2 / 2)))
    second = idf * (1 + 2 * 2 / (2 + 1 * (0.5 + 0.5 * 3 / 2)))
    np.testing.assert_allclose(index.scores("disk"), [first, second, idf * 1], rtol=1e-14)
    rows, scores = index.search("disk", 10)
    assert rows.tolist() == [1, 0]
    np.testing.assert_allclose(scores, [second, first], rtol=1e-6)
    assert (rows.dtype, scores.dtype) == (np.int32, np.float32)


def test_okapi_by_hand() -> None:
    index = BM25Index.build(["disk full", "disk slow", "fan", "cpu"], settings=BM25Settings("okapi", k1=1.5, b=0.75))
    idf = math.log(3.5) - math.log(1.5)
    np.testing.assert_allclose(index.scores("fan")[2], idf * 2.5 / (1 + 1.5 * (0.25 + 0.75 * 1 / 1.5)), rtol=1e-14)


def test_l_by_hand() -> None:
    index = BM25Index.build(["disk full", "fan cpu"], settings=BM25Settings("l", k1=1.5, b=0.75, delta=0.5))
    expected = (math.log(3) - math.log(1.5)) * 2.5 * 1.5 / (1.5 + 1.5)
    np.testing.assert_allclose(index.scores("fan"), [0, expected], rtol=1e-14)


# ----------------------------------------------------------------------------------------- equality with rank-bm25


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=60)
@given(texts=TEXTS, query=TEXT, k1=st.sampled_from([0.0, 0.9, 1.5]), b=st.sampled_from([0.0, 0.75, 1.0]))
def test_scores_and_matches_equal_rank_bm25(variant: str, texts: list[str], query: str, k1: float, b: float) -> None:
    index = BM25Index.build(texts, settings=BM25Settings(variant, k1=k1, b=b))  # type: ignore[arg-type]
    tokens = index.tokenizer.batch(texts)
    if not any(tokens):
        assert index.scores(query).tolist() == [0.0] * len(texts)
        assert found(index, query) == []
        return
    expected = reference_scores(index, texts, query)
    # With k1 = 0, or b = 1 and an empty document, rank-bm25 divides 0 by 0 for a count of 0; BM25Index adds 0.
    defined = ~np.isnan(expected)
    np.testing.assert_allclose(index.scores(query)[defined], expected[defined], atol=1e-6, rtol=0)
    matches = [i for i, terms in enumerate(tokens) if set(terms) & set(index.tokenizer(query))]
    rows, scores = index.search(query, 99)
    assert sorted(rows.tolist()) == matches
    exact = index.scores(query)
    np.testing.assert_allclose(scores, exact[rows], rtol=1e-6)
    assert rows.tolist() == sorted(matches, key=lambda i: (-exact[i], i))


@pytest.mark.parametrize(
    "name", ["ace", "cosqa", "cranfield", "locomo", "medquad", "msvc_errors", "nl2bash", "scifact"]
)
def test_scores_equal_rank_bm25_on_real_texts(shared_data: Path, name: str) -> None:
    texts, queries = texts_and_queries(shared_data / name)
    documents = Tokenizer().batch(texts)
    for variant, reference in REFERENCES.items():
        index = BM25Index.build(texts, settings=BM25Settings(variant))  # type: ignore[arg-type]
        model = reference(documents, k1=index.settings.k1, b=index.settings.b)
        for query in queries[:: max(1, len(queries) // 4)][:4]:
            terms = index.tokenizer(query)
            expected = np.asarray(model.get_scores(terms))
            np.testing.assert_allclose(index.scores(query), expected, atol=1e-6, rtol=0)
            rows, scores = index.search(query, 10)
            np.testing.assert_allclose(scores, expected[rows], rtol=1e-6)
            # The ranking is that of rank-bm25 too: no match that was left out scores above the last hit.
            others = np.array([not set(terms).isdisjoint(document) for document in documents])
            assert len(rows) == min(10, others.sum()) > 0
            others[rows] = False
            assert expected[others].max(initial=-np.inf) <= expected[rows].min() + 1e-9
            assert np.all(np.diff(expected[rows]) <= 1e-9)


def texts_and_queries(folder: Path) -> tuple[list[str], list[str]]:
    if folder.name == "ace":
        memories = json.loads((folder / "memory_inventory.json").read_text(encoding="utf-8"))
        cases = json.loads((folder / "enhanced_test_suite.json").read_text(encoding="utf-8"))["test_cases"]
        return [m["payload"]["lesson"] for m in memories], [case["generated_queries"][0]["query"] for case in cases]
    corpus, queries = (
        [json.loads(line) for line in (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]
        for part in ("corpus", "queries")
    )
    return [f"{d['title']} {d['text']}" for d in corpus], [q["text"] for q in queries]


# ---------------------------------------------------------------------------------------------- matches


def test_documents_with_a_query_term_match_whatever_their_score() -> None:
    # Okapi gives "disk" (in half of the documents) idf 0 and a score of 0, as it gives documents without it.
    index = BM25Index.build(["disk full", "disk slow", "fan", "cpu"], settings=BM25Settings("okapi"))
    assert index.scores("disk").tolist() == [0, 0, 0, 0]
    assert found(index, "disk") == [0, 1]
    # In a corpus of one document its scores are negative.
    single = BM25Index.build(["disk full"], settings=BM25Settings("okapi"))
    assert single.scores("disk")[0] < 0
    assert found(single, "disk") == [0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_documents_without_a_query_term_are_not_returned(variant: str) -> None:
    index = BM25Index.build(["zebra crossing", "banana bread"], settings=BM25Settings(variant))  # type: ignore[arg-type]
    assert found(index, "zebra") == [0]
    assert found(index, "quantum") == []


def test_ties_are_ordered_by_row() -> None:
    index = BM25Index.build(["disk full"] * 300)
    assert found(index, "disk", 5) == [0, 1, 2, 3, 4]
    assert found(index, "full disk", 300) == list(range(300))


def test_repeated_query_terms_count_twice() -> None:
    index = BM25Index.build(["disk", "fan fan", "cpu"])
    np.testing.assert_allclose(index.scores("disk disk fan"), 2 * index.scores("disk") + index.scores("fan"))


# ------------------------------------------------------------------------------------------------ edge cases


@pytest.mark.parametrize("texts", [[], [""], ["!?", "the of"]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_corpus_without_terms(texts: list[str], variant: str) -> None:
    index = BM25Index.build(texts, settings=BM25Settings(variant))  # type: ignore[arg-type]
    assert len(index) == index.n_rows == len(texts)
    assert found(index, "disk") == []
    assert index.scores("disk").tolist() == [0.0] * len(texts)
    indices, scores = index.search_batch(["disk", ""], 2)
    assert indices.tolist() == [[-1, -1], [-1, -1]]
    assert np.all(np.isneginf(scores))
    assert index.add(["disk full"]).tolist() == [len(texts)]
    assert found(index, "disk") == [len(texts)]


@pytest.mark.parametrize("query", ["", "  ", "the of", "!?"])
def test_query_without_terms_finds_nothing(query: str) -> None:
    assert found(BM25Index.build(["disk full", "the fan"]), query) == []


def test_one_document_and_k_larger_than_the_corpus() -> None:
    index = BM25Index.build(["disk full"])
    assert found(index, "disk", 1000) == [0]
    indices, scores = index.search_batch(["disk"], 3)
    assert indices.tolist() == [[0, -1, -1]]
    assert np.isfinite(scores[0, 0])
    assert index.search_batch([], 3)[0].shape == (0, 3)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    index = BM25Index.build(["disk"])
    with pytest.raises(AceFinetuneError, match="k is"):
        index.search("disk", k)
    with pytest.raises(AceFinetuneError, match="k is"):
        index.search_batch(["disk"], k)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"variant": "bm11"}, "no BM25 variant 'bm11'"),
        ({"k1": -1.0}, "k1 is -1.0"),
        ({"k1": math.inf}, "k1 is inf"),
        ({"b": 1.5}, "b is 1.5; set it to a number that is from 0 to 1"),
        ({"b": math.nan}, "b is nan"),
        ({"epsilon": -0.1}, "epsilon"),
        ({"delta": -0.1}, "delta"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict, words: str) -> None:
    with pytest.raises(AceFinetuneError, match=words):
        BM25Settings(**values)


def test_single_string_as_texts_is_refused() -> None:
    with pytest.raises(AceFinetuneError, match="one string"):
        BM25Index.build("disk full")
    with pytest.raises(AceFinetuneError, match="one string"):
        BM25Index.build([]).add("disk full")


# ------------------------------------------------------------------------------------------------ allowed rows


def test_allowed_rows_as_numbers_and_as_mask() -> None:
    index = BM25Index.build(["disk disk", "disk full", "fan", "disk of the fan"])
    assert found(index, "disk") == [0, 1, 3]
    for allowed in ([3, 1, 2, 1], np.array([False, True, True, True]), np.array([3, 1, 2], np.int32)):
        rows, scores = index.search("disk", 9, allowed=allowed)
        assert rows.tolist() == [1, 3]
        np.testing.assert_allclose(scores, index.scores("disk")[rows], rtol=1e-6)
    assert index.search("disk", 9, allowed=[])[0].tolist() == []
    assert index.search("disk", 9, allowed=[2])[0].tolist() == []


@pytest.mark.parametrize("allowed", [[4], [-1], [True], np.ones(5, bool), [1.5], ["1"]])
def test_allowed_rows_that_do_not_exist_are_refused(allowed: object) -> None:
    index = BM25Index.build(["disk"] * 4)
    with pytest.raises(AceFinetuneError, match="allowed"):
        index.search("disk", 1, allowed=allowed)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(texts=TEXTS, query=TEXT, variant=st.sampled_from(VARIANTS), data=st.data())
def test_allowed_rows_equal_a_filter_on_the_whole_ranking(texts, query, variant, data) -> None:
    index = BM25Index.build(texts, settings=BM25Settings(variant))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts))), bool)
    expected = [row for row in found(index, query) if mask[row]]
    assert index.search(query, 99, allowed=mask)[0].tolist() == expected
    assert index.search(query, 2, allowed=np.flatnonzero(mask))[0].tolist() == expected[:2]


# ----------------------------------------------------------------------------------------------- single and batch


@settings(max_examples=60)
@given(texts=TEXTS, queries=TEXTS, k=st.integers(1, 15), variant=st.sampled_from(VARIANTS))
def test_batch_equals_single(texts: list[str], queries: list[str], k: int, variant) -> None:
    index = BM25Index.build(texts, settings=BM25Settings(variant))
    indices, scores = index.search_batch(queries, k)
    assert indices.shape == scores.shape == (len(queries), k)
    assert (indices.dtype, scores.dtype) == (np.int32, np.float32)
    for query, rows, values in zip(queries, indices, scores, strict=True):
        alone_rows, alone_scores = index.search(query, k)
        n = len(alone_rows)
        assert rows[:n].tolist() == alone_rows.tolist()
        assert values[:n].tolist() == alone_scores.tolist()
        assert set(rows[n:].tolist()) <= {-1}
        assert np.all(np.isneginf(values[n:]))


# ------------------------------------------------------------------------------------------------ add and remove

STEPS = st.lists(st.one_of(st.tuples(st.just("add"), TEXTS), st.tuples(st.just("remove"), st.integers(0, 99)),
                           st.just(("search", None))), max_size=8)  # fmt: skip


@settings(max_examples=120)
@given(texts=TEXTS, steps=STEPS, queries=TEXTS, variant=st.sampled_from(VARIANTS))
def test_add_and_remove_equal_a_rebuild(texts: list[str], steps: list, queries: list[str], variant) -> None:
    index = BM25Index.build(texts, settings=BM25Settings(variant))
    held = dict(enumerate(texts))
    n_rows = len(texts)
    for verb, value in steps:
        if verb == "add":
            rows = index.add(value)
            assert rows.tolist() == list(range(n_rows, n_rows + len(value)))
            held.update(zip(rows.tolist(), value, strict=True))
            n_rows += len(value)
        elif verb == "remove" and held:
            row = sorted(held)[value % len(held)]
            index.remove([row])
            del held[row]
        else:
            index.search("disk", 3)
    rows = np.array(sorted(held), int)
    fresh = BM25Index.build([held[row] for row in rows], settings=BM25Settings(variant))
    assert len(index) == len(fresh)
    assert index.n_rows == n_rows
    for query in [*queries, "disk full red"]:
        assert index.scores(query)[rows].tolist() == fresh.scores(query).tolist()
        expected, scores = fresh.search(query, 99)
        assert found(index, query) == rows[expected].tolist()
        assert index.search(query, 99)[1].tolist() == scores.tolist()


def test_removed_rows_are_not_returned_and_their_numbers_are_not_reused() -> None:
    index = BM25Index.build(["disk full", "disk slow", "fan"])
    index.remove([0])
    assert found(index, "disk") == [1]
    assert index.add(["disk new"]).tolist() == [3]
    assert sorted(found(index, "disk")) == [1, 3]
    assert found(index, "full") == []
    assert (len(index), index.n_rows) == (3, 4)


@pytest.mark.parametrize("refresh", [True, False])
def test_removing_missing_rows_is_refused_and_changes_nothing(refresh: bool) -> None:
    index = BM25Index.build(["disk full", "disk slow"])
    index.remove([0])
    if refresh:
        assert len(index) == 1
    for row, words in ((2, "does not exist"), (-1, "does not exist"), (0, "was removed before")):
        with pytest.raises(AceFinetuneError, match=words):
            index.remove([1, row])
    assert found(index, "disk") == [1]


def test_search_while_another_thread_adds_and_removes() -> None:
    index = BM25Index.build(["disk full"] * 50)
    failures: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                rows, scores = index.search("disk new word", 500)
                assert len(rows) >= 50
                assert np.all(np.isfinite(scores))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(60):
        rows = index.add([f"disk new word{i}", "fan"])
        index.remove(rows[1:])
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(found(index, "disk", 500)) == 110


@pytest.mark.parametrize("variant", ["plus", "okapi", "l"])
def test_score_of_rows_equals_scores_of_the_search(variant: str) -> None:
    texts = ["red apple pie", "apple apple tree", "", "green tree", "a pie of trees and apples", "apple apple tree"]
    index = BM25Index.build(texts * 4, settings=BM25Settings(variant=variant))
    index.remove([3, 7])
    rows = np.random.default_rng(0).permutation(index.n_rows)
    for query in ("apple tree apple", "green", "unknown"):
        np.testing.assert_array_equal(index.score(query, rows), index.scores(query)[rows])
        found, scores = index.search(query, 10)
        np.testing.assert_array_equal(index.score(query, found).astype(np.float32), scores)


def test_unshifted_score_is_zero_without_a_match() -> None:
    index = BM25Index.build(["red apple", "green tree", "red tree"])
    values = index.score("red", [0, 1, 2], shifted=False)
    assert values[1] == 0
    assert values[0] == values[2] > 0
    assert index.score("red", [1])[0] == pytest.approx(math.log(4 / 2))  # the idf, times a delta of 1


@pytest.mark.parametrize("rows", [[3], [-1], [0.5]])
def test_score_refuses_rows_that_do_not_exist(rows: list[float]) -> None:
    with pytest.raises(AceFinetuneError):
        BM25Index.build(["a", "b", "c"]).score("a", rows)
