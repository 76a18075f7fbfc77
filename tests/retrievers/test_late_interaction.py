"""Late interaction as a leg: scores, writes, and every way in which it is skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import QUERIES, TEXTS
from helpers.small_stores import node
from llama_index.core.schema import NodeWithScore

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.scoring_legs import DenseLeg, LexicalLeg, candidate_scores
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.legs import token_leg
from llama_index_ace_finetune.retrievers.open_tokens import build_tokens
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore
from llama_index_ace_finetune.utils.text_key import text_key

WEIGHTS = {"dense": 0.4, "bm25": 0.2, "late": 0.4}
OPTIONS = {"fusion": "convex", "leg_weights": WEIGHTS, "similarity_top_k": 12}
Make = Callable[..., FineTunedHybridRetriever]


@pytest.fixture(scope="module")
def reranker(store: MemoryStore, tuned: FineTunedEmbedding) -> TokenReranker:
    return build_tokens(store, tuned.encoder)


@pytest.fixture
def late(make_retriever: Make, reranker: TokenReranker) -> FineTunedHybridRetriever:
    return make_retriever(reranker=reranker, **OPTIONS)


@pytest.fixture
def open_store(run: Path) -> Iterator[MemoryStore]:
    with MemoryStore.open(path=run / "index") as store:
        yield store


def ids(hits: list[NodeWithScore]) -> list[str]:
    return [hit.node.node_id for hit in hits]


class _LateLeg:
    """Late interaction of an evaluation: rows of the corpus, token vectors of the queries."""

    floor, retrieves = -1.0, False

    def __init__(self, reranker: TokenReranker, queries: TokenVectors, keys: list[str]) -> None:
        self.reranker, self.queries, self.keys = reranker, queries, keys

    def rankings(self, depth: int) -> None:
        raise AssertionError("it retrieves nothing")

    def scores(self, query: int, rows: np.ndarray) -> np.ndarray:
        return self.reranker.score(self.queries[query], [self.keys[row] for row in rows])


def test_serving_equals_evaluation(
    late: FineTunedHybridRetriever, reranker: TokenReranker, tuned: FineTunedEmbedding
) -> None:
    corpus, queries = sorted(TEXTS), list(QUERIES.values())
    texts = [TEXTS[name] for name in corpus]
    vectors = (tuned.encoder.encode(queries, role="query"), tuned.encoder.encode(texts, role="document"))
    table = candidate_scores([
        DenseLeg(*vectors), LexicalLeg(BM25Index.build(texts), queries),
        _LateLeg(reranker, reranker.encoder.encode_queries(queries), [text_key(text) for text in texts]),
    ])  # fmt: skip
    rows, sums = table.fuse([0.4, 0.2, 0.4], limit=12)
    for query, expected, scores in zip(queries, rows, sums, strict=True):
        hits = late.search(query)
        assert ids(hits) == [corpus[row] for row in expected if row >= 0]
        assert [hit.score for hit in hits] == pytest.approx(scores[: len(hits)].tolist(), abs=1e-5)
        assert set(hits[0].leg_scores) == set(WEIGHTS)
        assert "late" not in hits[0].leg_ranks  # it retrieves nothing
        assert hits[0].skipped_legs == []
    assert late.fallbacks == {}


def test_vectors_and_tokens_come_from_one_forward_pass(
    late: FineTunedHybridRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, calls = late._search.late.reranker.encoder.encoder, []
    real = encoder.encode_tokens
    monkeypatch.setattr(encoder, "encode_tokens", lambda texts, **kw: calls.append(list(texts)) or real(texts, **kw))
    monkeypatch.setattr(encoder, "encode", lambda *_, **__: pytest.fail("a second forward pass"))
    for _ in range(2):  # the second time from the cache
        late.search("words that no other test asks for")
    assert calls == [["words that no other test asks for"]]


async def test_async_and_batches_equal_single_searches(late: FineTunedHybridRetriever) -> None:
    queries = [*QUERIES.values()][:4]
    single = [late.search(query) for query in queries]
    for found in (late.retrieve_batch(queries), [await late.aretrieve(query) for query in queries]):
        assert [ids(hits) for hits in found] == [ids(hits) for hits in single]
        for hits, one in zip(found, single, strict=True):
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in one], abs=1e-5)


@pytest.mark.parametrize("query", ["keys", "?", "why " * 3000])
def test_short_and_long_queries_are_served(late: FineTunedHybridRetriever, query: str) -> None:
    hits = late.search(query)
    assert hits[0].skipped_legs == []
    assert all(0 <= hit.score <= 1 for hit in hits)


def test_token_vectors_follow_the_store(open_store: MemoryStore, tuned: FineTunedEmbedding, baseline) -> None:
    reranker = build_tokens(open_store, tuned.encoder)
    late = FineTunedHybridRetriever(
        open_store, embed_model=tuned, baseline_model=baseline, reranker=reranker, **OPTIONS
    )
    late.search("keys")
    changed = [node("backup", "Rotate tyres in spring."), node("empty", ""), node("twin", TEXTS["cache"])]
    texts = [one.text for one in changed]
    vectors = {
        name: model.encoder.encode(texts, role="document") for name, model in ((FINETUNED, tuned), (BASELINE, baseline))
    }
    open_store.upsert(changed, vectors)
    open_store.delete(["alerts"])
    hits = {hit.node.node_id: hit for hit in late.search("Rotate tyres in spring.")}
    assert late.fallbacks == {}
    assert set(hits) <= {*TEXTS, "empty", "twin"} - {"alerts"}
    assert hits["backup"].leg_scores["late"] == max(hit.leg_scores["late"] for hit in hits.values()) > 0.9
    assert hits["twin"].leg_scores["late"] == hits["cache"].leg_scores["late"]
    kept = {text_key(text) for name, text in TEXTS.items() if name not in ("backup", "alerts")}
    assert set(reranker.store.tokens.ids) == kept | {text_key(text) for text in texts}


class TestSkipped:
    """The other legs keep their weights, results and counters name the leg, and what serves stays the same."""

    def expect(self, late: FineTunedHybridRetriever, reason: str) -> None:
        query = QUERIES["cache"]
        hits = late.search(query)
        assert hits[0].skipped_legs == ["late"]
        assert hits[0].served_by == "finetuned"
        assert set(hits[0].leg_scores) == {"dense", "bm25"}
        assert late.fallbacks["late", reason] == 1
        without = late.search(query, leg_weights={"dense": 0.4, "bm25": 0.2})
        assert [(hit.node.node_id, hit.score) for hit in hits] == [(hit.node.node_id, hit.score) for hit in without]

    def test_without_token_vectors(self, make_retriever: Make) -> None:
        self.expect(make_retriever(**OPTIONS), "missing")

    def test_token_vectors_of_another_model(
        self, make_retriever: Make, store: MemoryStore, baseline: FineTunedEmbedding
    ) -> None:
        self.expect(make_retriever(reranker=build_tokens(store, baseline.encoder), **OPTIONS), "mismatch")

    def test_too_many_memories_without_token_vectors(
        self, make_retriever: Make, tuned: FineTunedEmbedding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(token_leg, "MAX_ENCODED", 5)
        some = TokenReranker.build(tuned.encoder, ["a", "b"], ["red", "green"], settings=TokenSettings(dimension=None))
        late = make_retriever(reranker=some, **OPTIONS)
        self.expect(late, "error")
        assert late.build_token_vectors() == len(TEXTS)
        assert "a" in some.store  # it may belong to another collection
        assert late.search(QUERIES["cache"])[0].skipped_legs == []

    def test_nan_states(self, late: FineTunedHybridRetriever, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ModelError("Token vectors hold NaN or infinite values; train or copy their model again.")

        late._search.late._queries.clear()
        monkeypatch.setattr(late._search.late.reranker.encoder, "encode_both", broken)
        self.expect(late, "error")

    def test_over_the_time_limit(
        self, make_retriever: Make, reranker: TokenReranker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = make_retriever(reranker=reranker, timeout=2.0, **OPTIONS)
        late.search(QUERIES["cache"])
        monkeypatch.setattr(late._search.late, "scores", lambda *_: time.sleep(30))
        self.expect(late, "timeout")

    def test_leg_is_paused_after_failures(
        self, make_retriever: Make, reranker: TokenReranker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = make_retriever(reranker=reranker, breaker_failures=2, **OPTIONS)
        monkeypatch.setattr(late._search.late, "scores", lambda *_: 1 / 0)
        for query in ("one", "two", "three"):
            assert late.search(query)[0].skipped_legs == ["late"]
        assert late.fallbacks == {("late", "error"): 2, ("late", "paused"): 1}

    def test_baseline_has_no_token_vectors(
        self, store: MemoryStore, baseline: FineTunedEmbedding, reranker: TokenReranker
    ) -> None:
        late = FineTunedHybridRetriever(store, embed_model=None, baseline_model=baseline, reranker=reranker, **OPTIONS)
        hits = late.search(QUERIES["cache"])
        assert (hits[0].served_by, hits[0].skipped_legs) == ("baseline", ["late"])


def test_without_token_vectors_there_is_nothing_to_build(make_retriever: Make) -> None:
    with pytest.raises(AceFinetuneError, match="no token vectors"):
        make_retriever().build_token_vectors()
