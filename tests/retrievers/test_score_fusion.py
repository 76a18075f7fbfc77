"""Fusion of scores over any number of legs: serving gives what an evaluation over arrays ranks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from helpers.small_stores import node
from helpers.words_embedding import DIMENSION, tuned_and_base, words_retriever
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.ranking.lexical_indexes import LEXICAL_LEGS, build_lexical_index
from llama_index_ace_finetune.ranking.scoring_legs import DenseLeg, LexicalLeg, ScoringLeg, candidate_scores
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25

_RNG = np.random.default_rng(5)
_WORDS = [
    f"{start}{end}" for start in ("cat", "dog", "deploy", "cach", "serv", "quer") for end in ("s", "ed", "ing", "er")
]
CORPUS = {f"m{number:03}": " ".join(_RNG.choice(_WORDS, 7)) for number in range(150)}
QUERIES = [" ".join(_RNG.choice(_WORDS, 3)) for _ in range(12)] + ["nothing known", "caching"]
ALL_LEGS: Mapping[Leg, float] = {
    "dense": 0.4, "base": 0.2, "bm25": 0.2, "bm25_unstemmed": 0.1, "char_ngrams": 0.1
}  # fmt: skip


def nodes() -> list:
    return [node(name, text, parity=int(name[1:]) % 2) for name, text in reversed(CORPUS.items())]


@pytest.fixture(scope="module")
def retriever() -> FineTunedHybridRetriever:
    return words_retriever(nodes())


def evaluated(
    weights: Mapping[Leg, float], queries: Sequence[str] = QUERIES, *, depth: int = 100, limit: int = 20,
    corpus: Mapping[str, str] = CORPUS,
) -> list[list[tuple[str, float]]]:  # fmt: skip
    """Return ids and fused scores of an evaluation over arrays, with rows in the order of ids."""
    ids, texts = sorted(corpus), [corpus[name] for name in sorted(corpus)]
    models = dict(zip(("dense", "base"), tuned_and_base(), strict=True))
    legs: list[ScoringLeg] = []
    for leg in weights:
        if leg in LEXICAL_LEGS:
            legs.append(LexicalLeg(build_lexical_index(leg, texts), queries))
        else:
            vectors = [np.array([models[leg].vector(t) for t in some], np.float32) for some in (queries, texts)]
            legs.append(DenseLeg(*vectors))
    rows, sums = candidate_scores(legs, depth=depth).fuse(list(weights.values()), limit=limit)
    return [
        [(ids[row], total) for row, total in zip(*one, strict=True) if row >= 0] for one in zip(rows, sums, strict=True)
    ]


def served(hits: Sequence) -> list[tuple[str, float]]:
    return [(hit.node.node_id, hit.score) for hit in hits]


def assert_equal(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-6)


@pytest.mark.parametrize("sparse", ["in_process", "server"])
@pytest.mark.parametrize(
    "weights",
    [
        {"dense": 0.6, "bm25": 0.4}, {"dense": 1.0}, {"bm25_unstemmed": 0.5, "char_ngrams": 0.5}, ALL_LEGS,
    ],
)  # fmt: skip
def test_serving_equals_evaluation(weights: Mapping[Leg, float], sparse: str) -> None:
    retriever = words_retriever(nodes(), sparse=sparse, fusion="convex", leg_weights=weights, similarity_top_k=20)
    expected = evaluated(weights)
    for query, one, batch in zip(QUERIES, expected, retriever.retrieve_batch(QUERIES), strict=True):
        assert_equal(served(retriever.retrieve(query)), one)
        assert_equal(served(batch), one)
    assert served(asyncio.run(retriever.aretrieve(QUERIES[0]))) == served(retriever.retrieve(QUERIES[0]))


@pytest.mark.parametrize("sparse", ["in_process", "server"])
def test_a_server_gives_the_same(qdrant_url: str, sparse: str) -> None:
    models, texts = dict(zip((FINETUNED, BASELINE), tuned_and_base(), strict=True)), [one.text for one in nodes()]
    named_vectors = {name: NamedVector(DIMENSION, model.fingerprint) for name, model in models.items()}
    collection = f"fusion-{sparse}"
    with MemoryStore.create(named_vectors, url=qdrant_url, collection=collection, sparse=SparseBM25.of(texts)) as store:
        vectors = {name: np.array([model.vector(t) for t in texts], np.float32) for name, model in models.items()}
        store.upsert(nodes(), vectors)
        retriever = FineTunedHybridRetriever(
            store, embed_model=models[FINETUNED], baseline_model=models[BASELINE], sparse=sparse, fusion="convex",
            similarity_top_k=20, leg_weights=ALL_LEGS,
        )  # fmt: skip
        pair: Mapping[Leg, float] = {"dense": 0.6, "bm25": 0.4}
        queries = [query for query in QUERIES if query != "nothing known"][:6]  # all memories tie
        for query, every, two in zip(queries, evaluated(ALL_LEGS, queries), evaluated(pair, queries), strict=True):
            assert_equal(served(retriever.retrieve(query)), every)
            assert_equal(served(retriever.search(query, leg_weights=pair)), two)
        store.client.delete_collection(collection)


def test_candidates_of_few_hits_have_exact_scores() -> None:
    """At a depth below the size of the corpus, the score of a hit that only one leg has is completed."""
    weights: Mapping[Leg, float] = {"dense": 0.5, "bm25": 0.5}
    options = {"fusion": "convex", "leg_weights": weights, "dense_top_k": 5, "sparse_top_k": 5}
    retriever = words_retriever(nodes(), similarity_top_k=5, **options)
    queries = [query for query in QUERIES if query != "nothing known"]  # all memories tie
    for query, expected in zip(queries, evaluated(weights, queries, depth=5, limit=5), strict=True):
        assert_equal(served(retriever.retrieve(query)), expected)


def test_results_say_scores_and_ranks_of_every_leg(retriever: FineTunedHybridRetriever) -> None:
    hits = retriever.search(QUERIES[0], fusion="convex", leg_weights={"dense": 0.5, "char_ngrams": 0.5}, dense_top_k=10)
    first = hits[0]
    assert set(first.leg_scores) == {"dense", "char_ngrams"}
    assert first.score == first.scaled_score
    assert first.rrf_score is None
    assert first.dense_score == first.leg_scores["dense"]
    assert (first.sparse_score, first.sparse_rank, first.skipped_legs) == (None, None, [])
    best = {leg: max(hit.leg_scores[leg] for hit in hits) for leg in first.leg_scores}
    expected = 0.5 * (first.leg_scores["dense"] + 1) / (best["dense"] + 1)
    expected += 0.5 * first.leg_scores["char_ngrams"] / best["char_ngrams"]
    assert 0 <= first.score <= 1
    if first.leg_ranks == {"dense": 1, "char_ngrams": 1}:
        assert first.score == pytest.approx(expected, abs=1e-5)


def test_filter_takes_the_place_of_the_corpus(retriever: FineTunedHybridRetriever) -> None:
    weights: Mapping[Leg, float] = {"dense": 0.6, "bm25": 0.4}
    even = MetadataFilters(filters=[MetadataFilter(key="parity", value=0)])
    hits = retriever.search(QUERIES[1], fusion="convex", leg_weights=weights, filters=even, similarity_top_k=20)
    assert {int(hit.node.node_id[1:]) % 2 for hit in hits} == {0}
    vectors = [np.array([tuned_and_base()[0].vector(t)], np.float32) for t in (QUERIES[1], *CORPUS.values())]
    cosines = {name: float((vectors[0] @ one.T).item()) for name, one in zip(CORPUS, vectors[1:], strict=True)}
    allowed = max(cosine for name, cosine in cosines.items() if int(name[1:]) % 2 == 0)
    top = next(hit for hit in hits if hit.dense_rank == 1)
    assert top.dense_score == pytest.approx(allowed, abs=1e-6)


def test_serving_follows_writes(retriever: FineTunedHybridRetriever) -> None:
    fresh = words_retriever(nodes(), fusion="convex", leg_weights=ALL_LEGS, similarity_top_k=20)
    fresh.retrieve(QUERIES[0])
    changed = {**CORPUS, "m003": "caching deploying", "new": QUERIES[0]}
    del changed["m010"]
    models = dict(zip(("finetuned", "baseline"), tuned_and_base(), strict=True))
    written = [node(name, changed[name]) for name in ("m003", "new")]
    vectors = {
        name: np.array([model.vector(one.text) for one in written], np.float32) for name, model in models.items()
    }
    fresh.store.upsert(written, vectors)
    fresh.store.delete(["m010"])
    for query, expected in zip(QUERIES, evaluated(ALL_LEGS, corpus=changed), strict=True):
        assert_equal(served(fresh.retrieve(query)), expected)


def test_rank_fusion_of_several_legs(retriever: FineTunedHybridRetriever) -> None:
    weights: Mapping[Leg, float] = {"dense": 1.0, "bm25": 1.0, "char_ngrams": 2.0}
    hits = retriever.search(QUERIES[0], leg_weights=weights)
    for hit in hits:
        assert hit.rrf_score == pytest.approx(sum(weights[leg] / (60 + rank) for leg, rank in hit.leg_ranks.items()))
        assert hit.score == pytest.approx(hit.rrf_score / (4 / 61))


def test_base_leg_that_fails_is_skipped_and_reported() -> None:
    retriever = words_retriever(nodes(), fusion="convex", leg_weights={"dense": 0.5, "base": 0.3, "bm25": 0.2})
    retriever._search.chain.models[1].break_with(ValueError("weights are gone"))
    hits = retriever.search(QUERIES[0], similarity_top_k=20)
    assert hits[0].skipped_legs == ["base"]
    assert hits[0].served_by == "finetuned"
    assert retriever.fallbacks["baseline", "error"] == 1
    assert_equal(served(hits), evaluated({"dense": 0.5, "bm25": 0.2})[0])


def test_baseline_serves_with_its_own_legs() -> None:
    retriever = words_retriever(
        nodes(), fusion="convex", leg_weights={"dense": 0.5, "base": 0.3, "bm25": 0.2},
        baseline_leg_weights={"dense": 0.3, "bm25": 0.7}, similarity_top_k=20,
    )  # fmt: skip
    retriever._search.chain.models[0].break_with(ValueError("weights are gone"))
    hits = retriever.search(QUERIES[0])
    assert {hit.served_by for hit in hits} == {"baseline"}
    expected = evaluated({"base": 0.3, "bm25": 0.7})[0]
    assert_equal(served(hits), expected)
    retriever._search.chain.models[1].break_with(ValueError("weights are gone"))
    hits = retriever.search(QUERIES[0])
    assert {hit.served_by for hit in hits} == {"lexical"}
    assert_equal(served(hits), evaluated({"bm25": 1.0})[0])


def test_lexical_legs_only_need_no_model(retriever: FineTunedHybridRetriever) -> None:
    calls = retriever._search.chain.models[0].calls
    hits = retriever.search(QUERIES[0], fusion="convex", leg_weights={"bm25": 0.5, "bm25_unstemmed": 0.5})
    assert {hit.served_by for hit in hits} == {"lexical"}
    assert retriever._search.chain.models[0].calls == calls


def test_empty_query_finds_nothing(retriever: FineTunedHybridRetriever) -> None:
    assert retriever.search("  ", fusion="convex", leg_weights=ALL_LEGS) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fusion": "sum"}, "must be rrf or convex"),
        ({"leg_weights": {"dense": 1, "colbert": 1}}, "'colbert' is unknown"),
        ({"leg_weights": {"dense": -1.0}}, "number of 0 or more"),
        ({"leg_weights": {"dense": float("nan")}}, "number of 0 or more"),
        ({"leg_weights": {"dense": "much"}}, "number of 0 or more"),
        ({"leg_weights": {}}, "No leg retrieves"),
        ({"leg_weights": [0.5, 0.5]}, "mapping"),
        ({"leg_weights": {"late": 1.0}, "fusion": "convex"}, "No leg retrieves"),
        ({"leg_weights": {"dense": 0.5, "late": 0.5}}, "needs fusion 'convex'"),
        ({"leg_weights": {"sparse": 1.0}}, "dense leg or a lexical one"),
        ({"baseline_leg_weights": {"dense": 0}}, "No leg retrieves"),
        ({"weights": (1.0, 1.0, 1.0)}, "two numbers"),
        ({"weight_legs": {}}, "did you mean"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_before_a_text_is_embedded(options: dict, words: str) -> None:
    with pytest.raises(AceFinetuneError, match=words):
        FineTunedHybridRetriever.from_nodes(nodes(), model="no such model", **options)


def test_a_pair_of_weights_replaces_legs_by_name() -> None:
    retriever = words_retriever(nodes(), fusion="convex", leg_weights=ALL_LEGS)
    pair = retriever.as_retriever(weights=(1.0, 2.0)).settings
    assert (pair.fusion, pair.leg_weights, pair.weights) == ("rrf", None, (1.0, 2.0))
    ranks = retriever.as_retriever(fusion="rrf").settings
    assert (ranks.fusion, ranks.leg_weights) == ("rrf", None)
    assert retriever.as_retriever(similarity_top_k=3).settings.leg_weights == ALL_LEGS
