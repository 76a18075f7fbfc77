"""Known queries in a retriever: scores by hand, in step with writes, on every store, and visible when they fail."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_stores import node
from helpers.words_embedding import DIMENSION, WordsEmbedding, words_store
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from qdrant_client import QdrantClient

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.errors import AceFinetuneError, StoreError
from llama_index_ace_finetune.evaluation.candidate_legs import CandidateLegs
from llama_index_ace_finetune.evaluation.choosing.structures import Structure
from llama_index_ace_finetune.evaluation.servable_systems import ServableSystems
from llama_index_ace_finetune.evaluation.systems import EncodedSet, EvaluationSet
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.copies import Copies
from llama_index_ace_finetune.ranking.further_vectors import FurtherVectorLeg, FurtherVectors, merge_further_vectors
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.ranking.known_field import FIELD_LEGS
from llama_index_ace_finetune.ranking.lexical_indexes import build_lexical_index
from llama_index_ace_finetune.ranking.scoring_legs import DenseLeg, LexicalLeg, candidate_scores
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.open_known_queries import open_known_queries
from llama_index_ace_finetune.retrievers.retriever_options import serving_options
from llama_index_ace_finetune.run_folder import RunFolder, known_query_folder
from llama_index_ace_finetune.stores.known_queries import StoredKnownQueries
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector
from llama_index_ace_finetune.utils.atomic import write_json

MODEL = WordsEmbedding()
TEXTS = {
    "disk": "free space on the volume by deleting old logs",
    "disk2": "Free space on the volume by deleting old  logs",
    "cache": "clear the cache after every deployment",
    "key": "rotate the signing key once a year",
    **{f"other{n}": f"note {n} about topic{n} and nothing else" for n in range(12)},
}
QUERIES = ("server says no room left", "why is my page stale", "stale page in the browser")
ABOUT = ("disk", "cache", "cache")
TEAM_B = MetadataFilters(filters=[MetadataFilter(key="team", value="b")])
NODES = [node(name, text, team="a" if name == "disk" else "b") for name, text in TEXTS.items()]


def stored(model: WordsEmbedding = MODEL, *, texts: bool = False) -> StoredKnownQueries:
    vectors = np.array([model.vector(query) for query in QUERIES], np.float32)
    about = tuple(text_hash(TEXTS[name]) for name in ABOUT)
    return StoredKnownQueries("words", vectors, about, QUERIES if texts else ())


def retriever_over(store: MemoryStore, **options: Any) -> FineTunedHybridRetriever:
    given: Any = {
        "embed_model": MODEL, "known_queries": stored(), "known_query_offset": 0.1, "mode": "dense", **options,
    }  # fmt: skip
    return FineTunedHybridRetriever(store, **given)


def expected(query: str, texts: dict[str, str], offset: float) -> dict[str, float]:
    """Every memory's best cosine, compared one by one."""
    vector, best = np.array(MODEL.vector(query)), {}
    for name, text in texts.items():
        known = [q for q, about in zip(QUERIES, ABOUT, strict=True) if text_hash(TEXTS[about]) == text_hash(text)]
        cosines = [vector @ MODEL.vector(text), *(vector @ MODEL.vector(one) - offset for one in known)]
        best[name] = float(max(cosines))
    return best


def expect(retriever: FineTunedHybridRetriever, texts: dict[str, str], *, offset: float = 0.1, **search: Any) -> None:
    for query in ("no room left on server", "page is stale", "rotate the key"):
        scores = expected(query, texts, offset)
        hits = {hit.node.node_id: hit.score for hit in retriever.search(query, similarity_top_k=4, **search)}
        order = sorted(scores, key=lambda name: (-round(scores[name], 6), name))[:4]
        assert list(hits) == order
        assert list(hits.values()) == pytest.approx([scores[name] for name in order], abs=2e-6)


def test_scores_are_the_best_of_text_and_known_queries() -> None:
    with words_store(NODES) as store:
        retriever = retriever_over(store)
        expect(retriever, TEXTS)
        expect(retriever, TEXTS, offset=0.4, known_query_offset=0.4)
        assert retriever.search("stale page", known_query_offset=None)[0].skipped_legs == []
        only = {name: text for name, text in TEXTS.items() if name != "disk"}
        expect(retriever, only, node_ids=list(only))
        expect(retriever, only, filters=TEAM_B)
        # In a fusion by score, a candidate of another leg has its known queries too.
        fused = retriever.search(
            "clear room left on server", mode="hybrid", fusion="convex", leg_weights={"dense": 0.5, "bm25": 0.5}
        )
        scores = expected("clear room left on server", TEXTS, 0.1)
        assert {one.node.node_id: one.leg_scores["dense"] for one in fused} == pytest.approx(
            {one.node.node_id: scores[one.node.node_id] for one in fused}, abs=2e-6
        )


def test_retriever_ranks_what_the_evaluation_ranks() -> None:
    """As an evaluation ranks: over distinct texts, with the copies of each in the depth of a leg."""
    names, weights, depth = sorted(TEXTS), {"dense": 0.6, "bm25": 0.4}, 5
    texts = {text_hash(TEXTS[name]): name for name in reversed(names)}  # the first name of each text
    rows = {text: row for row, text in enumerate(sorted(texts, key=texts.__getitem__))}
    copies = Copies(np.array([rows[text_hash(TEXTS[name])] for name in names]))
    corpus = [texts[text] for text in rows]
    questions = ["no room left on server", "clear the stale page", "topic3 about the key", "left page"]
    vectors = np.array([MODEL.vector(question) for question in questions], np.float32)
    known = stored()
    owned = FurtherVectors.of(known.vectors, np.array([rows[text] for text in known.memories]))
    legs = [
        DenseLeg(vectors, np.array([MODEL.vector(TEXTS[name]) for name in corpus], np.float32), copies),
        LexicalLeg(BM25Index.build([TEXTS[name] for name in names]), questions, copies),
        FurtherVectorLeg(vectors, owned, copies),
    ]
    table = merge_further_vectors(
        candidate_scores(legs, depth=depth, copies=copies), 0.1, dense=0, depth=depth, copies=copies
    )
    ranked, scores = table.fuse(list(weights.values()), limit=20)
    options: Any = {"fusion": "convex", "leg_weights": weights, "dense_top_k": depth, "sparse_top_k": depth}
    with words_store(NODES) as store:
        retriever = retriever_over(store, mode="hybrid", similarity_top_k=depth, **options)
        for question, hits, sums in zip(questions, ranked, scores, strict=True):
            expected = {corpus[row]: total for row, total in zip(hits, sums, strict=True) if row >= 0}
            found: dict[str, float] = {}
            for hit in retriever.retrieve(question):
                found.setdefault(texts[text_hash(TEXTS[hit.node.node_id])], hit.score)
            assert list(found) == list(expected)[: len(found)]
            assert list(found.values()) == pytest.approx(list(expected.values())[: len(found)], abs=2e-6)
            assert len(found) >= 4


def test_known_queries_follow_the_writes_to_the_store() -> None:
    with words_store(NODES) as store:
        retriever = retriever_over(store)
        expect(retriever, TEXTS)
        store.delete(["disk"])
        rest = {name: text for name, text in TEXTS.items() if name != "disk"}
        expect(retriever, rest)  # the copy keeps the known query
        store.delete(["disk2"])
        changed = {**rest, "cache": "the cache was removed from the product"}
        del changed["disk2"]
        write(store, {"cache": changed["cache"]})
        expect(retriever, changed)
        assert "cache" not in {hit.node.node_id for hit in retriever.search("why is my page stale", threshold=0.6)}
        write(store, {"again": TEXTS["disk"]})
        expect(retriever, {**changed, "again": TEXTS["disk"]})


def write(store: MemoryStore, texts: dict[str, str]) -> None:
    rows = {
        name: np.array([WordsEmbedding(seed=seed).vector(text) for text in texts.values()], np.float32)
        for name, seed in ((FINETUNED, 0), (BASELINE, 1))
        if name in store.named_vectors
    }
    store.upsert([node(name, text) for name, text in texts.items()], rows)


@pytest.fixture
def server(qdrant_url: str) -> Iterator[MemoryStore]:
    name = f"known-{uuid.uuid4().hex}"
    store = MemoryStore.create({FINETUNED: NamedVector(DIMENSION, "words")}, url=qdrant_url, collection=name)
    vectors = np.array([MODEL.vector(text) for text in TEXTS.values()], np.float32)
    store.upsert(NODES, {FINETUNED: vectors})
    yield store
    store.close()
    client = QdrantClient(url=qdrant_url)
    client.delete_collection(name)
    client.close()


def test_a_server_gives_the_same_results(server: MemoryStore) -> None:
    retriever = retriever_over(server)
    expect(retriever, TEXTS)
    expect(retriever, {name: text for name, text in TEXTS.items() if name != "disk"}, filters=TEAM_B)
    server.delete(["disk", "disk2"])
    expect(retriever, {name: text for name, text in TEXTS.items() if not name.startswith("disk")})


def test_known_queries_that_cannot_be_used_are_named_in_the_results() -> None:
    with words_store(NODES) as store:
        without = FineTunedHybridRetriever(store, embed_model=MODEL, mode="dense", known_query_offset=0.1)
        assert without.retrieve("stale page")[0].skipped_legs == ["known_queries"]
        broken = WordsEmbedding()
        broken.break_with(RuntimeError("no"))
        base = WordsEmbedding(seed=1, fingerprint="other words")
        retriever = retriever_over(store, embed_model=broken, baseline_model=base)
        hit = retriever.retrieve("stale page")[0]
        assert (hit.served_by, hit.skipped_legs) == ("baseline", ["known_queries"])
        with pytest.raises(AceFinetuneError, match="known_query_offset is -1"):
            retriever.search("x", known_query_offset=-1.0)


def with_field(texts: dict[str, str], weight: int) -> list[str]:
    """The text that BM25 should index for each memory, by hand: each known query several times behind the text."""
    about: dict[str, list[str]] = {}
    for query, name in zip(QUERIES, ABOUT, strict=True):
        about.setdefault(text_hash(TEXTS[name]), []).extend([query] * weight)
    return [" ".join([text, *about.get(text_hash(text), [])]) for text in texts.values()]


def expect_in_bm25(retriever: FineTunedHybridRetriever, texts: dict[str, str], weight: int) -> None:
    index, names = BM25Index.build(with_field(texts, weight)), list(texts)
    for query in ("server with no room", "stale page", "rotate the key"):
        rows, scores = index.search(query, 20, ties=True)
        expected = {names[row]: score for row, score in zip(rows, scores, strict=True)}
        hits = retriever.search(query, mode="sparse", similarity_top_k=20, known_query_weight=weight)
        assert {hit.node.node_id: hit.score for hit in hits} == pytest.approx(expected)


def test_known_queries_are_a_field_of_bm25_and_follow_writes() -> None:
    with words_store(NODES) as store:
        retriever = retriever_over(store, known_queries=stored(texts=True))
        for weight in (0, 1, 3):
            expect_in_bm25(retriever, TEXTS, weight)
        assert "disk" in {hit.node.node_id for hit in retriever.search("server", mode="sparse", known_query_weight=1)}
        changed = {name: text for name, text in TEXTS.items() if name != "disk"}
        store.delete(["disk"])
        write(store, {"cache": "the cache was removed from the product"})
        changed["cache"] = "the cache was removed from the product"
        for weight in (1, 3):
            expect_in_bm25(retriever, changed, weight)
        fused = retriever.search(
            "stale page", mode="hybrid", fusion="convex", leg_weights={"dense": 0.5, "bm25": 0.5}, known_query_weight=2
        )
        assert fused[0].skipped_legs == []
        with pytest.raises(AceFinetuneError, match=r"known_query_weight is 1\.5"):
            retriever.search("x", known_query_weight=1.5)
        without = retriever_over(store, mode="hybrid")
        assert without.search("stale page")[0].skipped_legs == []
        assert without.search("stale page", known_query_weight=1)[0].skipped_legs == ["known_queries"]


def test_evaluation_ranks_with_the_field_as_the_retriever_does() -> None:
    names = sorted(TEXTS)
    distinct = {name: TEXTS[name] for name in names if name != "disk2"}
    memories = {name: Memory(name, text) for name, text in distinct.items()}
    questions = ["server with no room", "stale page", "rotate the key"]
    queries = {f"q{n}": Query(f"q{n}", question) for n, question in enumerate(questions)}
    data = EvaluationSet.of(
        RetrievalDataset("words", memories, queries, {query: {"key": 1.0} for query in queries}), sorted(queries)
    )
    encoded = EncodedSet(
        "words",
        np.array([MODEL.vector(question) for question in questions], np.float32),
        np.array([MODEL.vector(text) for text in data.corpus], np.float32),
    )
    lexical: dict[Leg, Any] = {leg: build_lexical_index(leg, data.stored) for leg in FIELD_LEGS}
    systems = ServableSystems(data, lexical, {"tuned": CandidateLegs(data, lexical, encoded)})
    row_of = {name: row for row, name in enumerate(data.corpus_ids)}
    texts: dict[int, list[str]] = {}
    for query, name in zip(QUERIES, ABOUT, strict=True):
        texts.setdefault(row_of[name], []).append(query)
    weights = {"dense": 0.3, "bm25": 0.4, "bm25_unstemmed": 0.3}
    structure = Structure("tuned", "convex", ("dense", *FIELD_LEGS), ((0.3, 0.4, 0.3),), (0.3, 0.4, 0.3))
    made = {
        weight: systems.system(structure, 0, name="x", trained=True, known_texts=texts, known_weight=weight)
        for weight in (0, 2)
    }
    assert (made[0].rankings[:, :3] != made[2].rankings[:, :3]).any()
    with words_store([node(name, text) for name, text in distinct.items()]) as store:
        retriever = retriever_over(
            store, known_queries=stored(texts=True), mode="hybrid", fusion="convex", leg_weights=weights,
            known_query_offset=None,
        )  # fmt: skip
        for weight, system in made.items():
            for question, rows, scores in zip(questions, system.rankings, system.scores, strict=True):
                hits = retriever.search(question, similarity_top_k=5, known_query_weight=weight)
                assert [hit.node.node_id for hit in hits] == [data.corpus_ids[row] for row in rows[:5]]
                assert [hit.score for hit in hits] == pytest.approx(scores[:5].tolist(), abs=2e-6)


def test_stored_known_queries_round_trip_and_damage_is_refused(tmp_path: Path) -> None:
    stored().save(tmp_path / "known")
    loaded = StoredKnownQueries.load(tmp_path / "known")
    assert (loaded.fingerprint, loaded.memories) == ("words", stored().memories)
    assert loaded.vectors.tolist() == stored().vectors.tolist()
    assert loaded.texts == ()
    stored(texts=True).save(tmp_path / "texts")
    assert StoredKnownQueries.load(tmp_path / "texts").texts == QUERIES
    meta = json.loads((tmp_path / "texts" / "known_queries.json").read_text("utf-8"))
    write_json(tmp_path / "texts" / "known_queries.json", {**meta, "texts": ["one"]})
    with pytest.raises(StoreError, match="list of their texts"):
        StoredKnownQueries.load(tmp_path / "texts")
    np.save(tmp_path / "known" / "vectors.npy", loaded.vectors[:1])
    with pytest.raises(StoreError, match="build the index again"):
        StoredKnownQueries.load(tmp_path / "known")
    (tmp_path / "known" / "known_queries.json").write_text("{}")
    with pytest.raises(StoreError, match="build the index again"):
        StoredKnownQueries.load(tmp_path / "known")
    with pytest.raises(StoreError, match="build the index again"):
        StoredKnownQueries.load(tmp_path / "nothing")


def test_a_run_says_whether_known_queries_are_served(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    serving = {"vectors": "model", "weights": [1.0, 0.0]}
    write_json(run.report, {"serving": {**serving, "known_query_offset": 0.2}})
    assert serving_options(run.serving())["known_query_offset"] == 0.2
    write_json(run.report, {"serving": {**serving, "known_query_weight": 2}})
    assert serving_options(run.serving())["known_query_weight"] == 2
    assert run.serving().uses_known_queries
    write_json(run.report, {"serving": {**serving, "known_query_weight": 99}})
    with pytest.raises(AceFinetuneError, match="known_query_weight"):
        run.serving()
    write_json(run.report, {"serving": serving})
    assert "known_query_offset" not in serving_options(run.serving())
    write_json(run.report, {"serving": {**serving, "known_query_offset": 3.0}})
    with pytest.raises(AceFinetuneError, match="known_query_offset"):
        run.serving()


def test_known_queries_of_another_model_are_not_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored().save(known_query_folder(tmp_path))
    opened = open_known_queries(tmp_path, MODEL, 0.2)
    assert opened is not None
    assert opened.vectors.shape == (3, DIMENSION)
    assert open_known_queries(tmp_path, MODEL, None) is None
    assert not caplog.records
    assert open_known_queries(tmp_path, WordsEmbedding(fingerprint="x"), 0.2) is None
    assert open_known_queries(tmp_path / "nowhere", MODEL, 0.2) is None
    assert ["another model made those" in caplog.messages[0], len(caplog.messages)] == [True, 2]
