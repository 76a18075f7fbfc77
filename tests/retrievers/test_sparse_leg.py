"""A sparse encoder as a leg: scores, writes, stored vectors, and every way in which it is skipped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import QUERIES, TEXTS
from helpers.small_stores import node
from helpers.tiny_sparse import make_sparse_encoder

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders import stored_sparse_vectors
from llama_index_ace_finetune.encoders.sparse_encoder import SparseTextEncoder
from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.errors import AceFinetuneError, StoreError
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.scoring_legs import DenseLeg, LexicalLeg, candidate_scores
from llama_index_ace_finetune.ranking.sparse_index import SparseIndex
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore

WEIGHTS = {"dense": 0.4, "bm25": 0.2, "sparse": 0.4}
OPTIONS = {"fusion": "convex", "leg_weights": WEIGHTS, "similarity_top_k": 12}
Make = Callable[..., FineTunedHybridRetriever]
QUERY = next(iter(QUERIES.values()))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SparseTextEncoder:
    return SparseTextEncoder.load(make_sparse_encoder(tmp_path_factory.mktemp("sparse")), device="cpu")


@pytest.fixture
def vectors(encoder: SparseTextEncoder) -> StoredSparseVectors:
    made = StoredSparseVectors(encoder)
    assert made.add(list(TEXTS.values())) == len(set(TEXTS.values()))
    return made


@pytest.fixture
def open_store(run: Path) -> Iterator[MemoryStore]:
    with MemoryStore.open(path=run / "index") as store:
        yield store


def _ranking(hits: list) -> list[tuple[str, float]]:
    return [(hit.node.node_id, round(hit.score, 6)) for hit in hits]


@pytest.mark.parametrize("lexical_only", [False, True])
def test_serving_equals_evaluation(
    make_retriever: Make,
    vectors: StoredSparseVectors,
    encoder: SparseTextEncoder,
    tuned: FineTunedEmbedding,
    lexical_only: bool,
) -> None:
    corpus, queries = sorted(TEXTS), list(QUERIES.values())
    texts = [TEXTS[name] for name in corpus]
    dense = DenseLeg(tuned.encoder.encode_queries(queries), tuned.encoder.encode_documents(texts))
    legs = {
        "dense": dense,
        "bm25": LexicalLeg(BM25Index.build(texts), queries),
        "sparse": LexicalLeg(SparseIndex.build(texts, encoder), queries),
    }
    weights = {leg: weight for leg, weight in WEIGHTS.items() if leg != "dense" or not lexical_only}
    rows, sums = candidate_scores([legs[leg] for leg in weights]).fuse(list(weights.values()), limit=12)
    retriever = make_retriever(sparse_vectors=vectors, **{**OPTIONS, "leg_weights": weights})
    for query, expected, scores in zip(queries, rows, sums, strict=True):
        hits = retriever.search(query)
        assert [hit.node.node_id for hit in hits] == [corpus[row] for row in expected if row >= 0]
        np.testing.assert_allclose([hit.score for hit in hits], scores[: len(hits)], atol=2e-6)
        assert hits[0].skipped_legs == []
        assert hits[0].served_by == ("lexical" if lexical_only else "finetuned")
        assert all("sparse" in hit.leg_scores for hit in hits)
    assert not retriever.fallbacks


async def test_asynchronous_and_batched_searches_are_equal(make_retriever: Make, vectors: StoredSparseVectors) -> None:
    retriever = make_retriever(sparse_vectors=vectors, **OPTIONS)
    expected = _ranking(retriever.search(QUERY))
    assert _ranking(await retriever.asearch(QUERY)) == expected
    assert _ranking(retriever.retrieve_batch([QUERY])[0]) == expected


def test_without_vectors_it_is_skipped_visibly(make_retriever: Make) -> None:
    retriever = make_retriever(**OPTIONS)
    hits = retriever.search(QUERY)
    assert hits[0].skipped_legs == ["sparse"]
    assert hits[0].served_by == "finetuned"
    assert retriever.fallbacks == {("sparse", "missing"): 1}
    without = make_retriever(**{**OPTIONS, "leg_weights": {"dense": 0.4, "bm25": 0.2}})
    assert _ranking(hits) == _ranking(without.search(QUERY))
    ranked = make_retriever(fusion="rrf", leg_weights=WEIGHTS).search(QUERY)
    assert ranked[0].skipped_legs == ["sparse"]


def test_a_failing_encoder_is_skipped_and_paused(
    make_retriever: Make, vectors: StoredSparseVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(texts: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(vectors, "encode_queries", fails)
    retriever = make_retriever(sparse_vectors=vectors, breaker_failures=1, **OPTIONS)
    assert retriever.search(QUERY)[0].skipped_legs == ["sparse"]
    assert retriever.search(QUERY)[0].skipped_legs == ["sparse"]
    assert retriever.fallbacks == {("sparse", "error"): 1, ("sparse", "paused"): 1}


def test_a_slow_encoder_is_skipped(
    make_retriever: Make, vectors: StoredSparseVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "encode_queries", lambda texts: time.sleep(4))
    retriever = make_retriever(sparse_vectors=vectors, timeout=3.0, **OPTIONS)
    assert retriever.search(QUERY)[0].skipped_legs == ["sparse"]
    assert retriever.fallbacks == {("sparse", "timeout"): 1}


def test_writes_are_followed(
    open_store: MemoryStore,
    tuned: FineTunedEmbedding,
    baseline: FineTunedEmbedding,
    vectors: StoredSparseVectors,
    encoder: SparseTextEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {**OPTIONS, "leg_weights": {"bm25": 0.1, "sparse": 0.9}, "similarity_top_k": 50}
    retriever = FineTunedHybridRetriever(
        open_store, embed_model=tuned, baseline_model=baseline, sparse_vectors=vectors, **options
    )
    gone = retriever.search(QUERY)[0].node.node_id
    new = node("new", "restart the cache after a deploy")
    text = [new.get_content()]
    rows = {FINETUNED: tuned.encoder.encode_documents(text), BASELINE: baseline.encoder.encode_documents(text)}
    open_store.upsert([new], rows)
    open_store.delete([gone])
    found = {hit.node.node_id: hit for hit in retriever.search(QUERY)}
    assert gone not in found
    product = (encoder.encode_queries([QUERY]) @ encoder.encode_documents(text).T).toarray()[0, 0]
    assert found[new.node_id].leg_scores["sparse"] == pytest.approx(product, rel=1e-5)
    monkeypatch.setattr(stored_sparse_vectors, "MAX_ENCODED", 0)
    other = node("other", "pool limit")
    open_store.upsert([other], rows)
    assert retriever.search(QUERY)[0].skipped_legs == ["sparse"]
    vectors.add(["pool limit"])
    assert retriever.search(QUERY)[0].skipped_legs == []


def test_the_folder_keeps_the_vectors(vectors: StoredSparseVectors, tmp_path: Path) -> None:
    vectors.save(tmp_path)
    opened, texts = StoredSparseVectors.open(tmp_path, vectors.encoder), list(TEXTS.values())
    assert len(opened) == len(vectors)
    assert (opened.encode_documents(texts) != vectors.encode_documents(texts)).nnz == 0
    assert opened.add(texts) == 0


def test_missing_damaged_or_foreign_vectors_are_refused(vectors: StoredSparseVectors, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There are no sparse vectors"):
        StoredSparseVectors.open(tmp_path / "none", vectors.encoder)
    vectors.save(tmp_path / "v")
    meta = tmp_path / "v" / "meta.json"
    content = json.loads(meta.read_text())
    meta.write_text(json.dumps({**content, "fingerprint": "0" * 32}))
    with pytest.raises(StoreError, match="not those of the encoder"):
        StoredSparseVectors.open(tmp_path / "v", vectors.encoder)
    meta.write_text(json.dumps(content))
    weights = tmp_path / "v" / "weights.npy"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(StoreError, match="checksum"):
        StoredSparseVectors.open(tmp_path / "v", vectors.encoder)
    weights.unlink()
    with pytest.raises(StoreError, match=r"weights\.npy"):
        StoredSparseVectors.open(tmp_path / "v", vectors.encoder)


def test_it_needs_another_leg(make_retriever: Make) -> None:
    with pytest.raises(AceFinetuneError, match="dense leg or a lexical one"):
        make_retriever(fusion="convex", leg_weights={"sparse": 1.0})
