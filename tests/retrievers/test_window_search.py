"""Windows of long texts in a retriever: scores by hand, in step with writes, on every store, and visible failures."""

from __future__ import annotations

import random
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.short_model import short_model
from helpers.small_stores import node
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from qdrant_client import QdrantClient

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.text_windows import WindowEncoder
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.choosing.structures import Structure
from llama_index_ace_finetune.evaluation.corpus_windows import CorpusWindows
from llama_index_ace_finetune.evaluation.servable_systems import ServableSystems
from llama_index_ace_finetune.evaluation.systems import EncodedSet, EvaluationSet
from llama_index_ace_finetune.pipeline.check_index import check_index
from llama_index_ace_finetune.pipeline.index import write_index
from llama_index_ace_finetune.ranking.further_vectors import FurtherVectors
from llama_index_ace_finetune.retrievers.finetuned_retrieval import FineTunedRetrieval
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.legs import window_search
from llama_index_ace_finetune.retrievers.open_known_queries import build_known_queries
from llama_index_ace_finetune.run_folder import RunFolder, known_query_folder, window_folder
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.atomic import write_json

FILLER = "The meeting was held as planned and everybody signed the list before lunch."
FACTS = {
    "whales": "A blue whale is the largest animal that ever lived.",
    "bread": "Sourdough rises slowly because wild yeast is patient.",
    "violin": "The violin maker chose spruce for the top and maple for the back.",
    "tax": "The tax return must be posted by the end of July.",
}
TEXTS = {
    **{name: f"{FILLER} {FILLER} {FILLER} Note on {name[:1]}. {fact}" for name, fact in FACTS.items()},
    "short": "A short note.",
    "rocks": "Granite cools slowly below the ground.",
}
NODES = [node(name, text, team="a" if name == "bread" else "b") for name, text in TEXTS.items()]
TEAM_B = MetadataFilters(filters=[MetadataFilter(key="team", value="b")])
QUESTIONS = ("which animal is the largest?", "why does sourdough rise slowly?", "what cools below the ground?")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_model(tmp_path_factory.mktemp("short") / "model")


@pytest.fixture(scope="module")
def embedding(model: Path) -> FineTunedEmbedding:
    return FineTunedEmbedding(str(model))


@pytest.fixture
def built(model: Path, tmp_path: Path) -> Iterator[FineTunedHybridRetriever]:
    retriever = FineTunedHybridRetriever.from_nodes(
        NODES, model=model, baseline=None, path=tmp_path / "index", windows=True, mode="dense"
    )
    yield retriever
    retriever.close()


def expect(retriever: Any, embedding: FineTunedEmbedding, texts: dict[str, str], **search: Any) -> None:
    """Compare with the best cosine of each text and its windows, one by one."""
    encoder = embedding.encoder
    best = {}
    for name, text in texts.items():
        best[name] = encoder.encode_documents([text, *WindowEncoder(encoder).split([text])[0]])
    for question in QUESTIONS:
        (query,) = encoder.encode_queries([question])
        scores = {name: float((vectors @ query).max()) for name, vectors in best.items()}
        hits = {hit.node.node_id: hit for hit in retriever.search(question, similarity_top_k=4, **search)}
        order = sorted(scores, key=lambda name: -scores[name])[:4]
        assert list(hits) == order
        assert [hit.score for hit in hits.values()] == pytest.approx([scores[name] for name in order], abs=2e-6)
        assert next(iter(hits.values())).skipped_legs == []


def test_scores_are_the_best_of_text_and_windows(
    built: FineTunedHybridRetriever, embedding: FineTunedEmbedding
) -> None:
    expect(built, embedding, TEXTS)
    expect(built, embedding, {name: text for name, text in TEXTS.items() if name != "bread"}, filters=TEAM_B)
    assert built.search(QUESTIONS[0])[0].node.node_id == "whales"
    cut = {hit.node.node_id: hit.score for hit in built.search(QUESTIONS[0], windows=False)}
    assert cut["whales"] < built.search(QUESTIONS[0])[0].score - 0.2
    # In a fusion by score, a candidate of another leg has its windows too.
    fused = built.search(QUESTIONS[1], mode="hybrid", fusion="convex", leg_weights={"dense": 0.5, "bm25": 0.5})
    dense = {hit.node.node_id: hit.score for hit in built.search(QUESTIONS[1])}
    assert {one.node.node_id: one.leg_scores["dense"] for one in fused} == pytest.approx(
        {one.node.node_id: dense[one.node.node_id] for one in fused}, abs=2e-6
    )
    with pytest.raises(AceFinetuneError, match="windows is 'yes'"):
        built.search("x", windows="yes")


def test_windows_are_by_the_base_model_if_that_serves(embedding: FineTunedEmbedding, model: Path) -> None:
    retriever = FineTunedHybridRetriever.from_nodes(
        NODES, model=DEFAULT_BASE_MODEL, baseline=model, serve="base", windows=True, mode="dense"
    )
    expect(retriever, embedding, TEXTS)  # those of the other model, which truncates no text, are none
    retriever.close()


def test_windows_follow_the_writes_to_the_store(
    built: FineTunedHybridRetriever, embedding: FineTunedEmbedding, model: Path, tmp_path: Path
) -> None:
    expect(built, embedding, TEXTS)
    texts = {name: text for name, text in TEXTS.items() if name != "whales"}
    built.store.delete(["whales"])
    expect(built, embedding, texts)
    texts |= {"new": f"{FILLER} {FILLER} {FILLER} The elephant is the largest animal on land.", "bread": "Just bread."}
    write(built.store, embedding, {name: texts[name] for name in ("new", "bread")})
    expect(built, embedding, texts)
    assert built.search(QUESTIONS[0])[0].node.node_id == "new"
    built.close()
    again = FineTunedHybridRetriever.from_collection(
        path=tmp_path / "index", model=model, baseline=None, windows=True, mode="dense"
    )
    try:
        expect(again, embedding, texts)
        assert again.build_windows() == 0  # those of the new memory were stored
    finally:
        again.close()


def write(store: MemoryStore, embedding: FineTunedEmbedding, texts: dict[str, str]) -> None:
    vectors = embedding.encoder.encode_documents(list(texts.values()))
    store.upsert([node(name, text) for name, text in texts.items()], dict.fromkeys(store.named_vectors, vectors))


@pytest.mark.slow
def test_a_server_gives_the_same_results(model: Path, embedding: FineTunedEmbedding, qdrant_url: str) -> None:
    name = f"windows-{uuid.uuid4().hex}"
    retriever = FineTunedHybridRetriever.from_nodes(
        NODES, model=model, baseline=None, url=qdrant_url, collection=name, windows=True, mode="dense"
    )
    try:
        expect(retriever, embedding, TEXTS)
        expect(retriever, embedding, {key: TEXTS[key] for key in TEXTS if key != "bread"}, filters=TEAM_B)
    finally:
        retriever.close()
        client = QdrantClient(url=qdrant_url)
        client.delete_collection(name)
        client.close()


def test_windows_that_cannot_be_used_are_skipped_visibly(
    built: FineTunedHybridRetriever, embedding: FineTunedEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = FineTunedHybridRetriever(built.store, embed_model=embedding, mode="dense")
    cut = without.retrieve(QUESTIONS[0])
    missing = without.search(QUESTIONS[0], windows=True)
    assert [missing[0].skipped_legs, without.fallbacks["windows", "missing"]] == [["windows"], 1]
    assert [hit.score for hit in missing] == [hit.score for hit in cut]
    with pytest.raises(AceFinetuneError, match="has no windows"):
        without.build_windows()
    monkeypatch.setattr(window_search, "MAX_ENCODED", 1)
    write(built.store, embedding, {f"new{n}": TEXTS["tax"] + f" {n} {FILLER}" for n in range(2)})
    hits = built.retrieve(QUESTIONS[0])
    assert [hits[0].skipped_legs, built.fallbacks["windows", "error"]] == [["windows"], 1]
    assert built.build_windows() == 2
    assert built.retrieve(QUESTIONS[0])[0].skipped_legs == []


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, ServableSystems]:
    """A run folder whose base and tuned model are the same, and the legs of its evaluation."""
    draw = random.Random(3)
    words = ["cached", "deploy", "server", "keys", "rotate", "backup", "queue", "retry", "index", "shard"]
    texts = [f"memory{n} " + " ".join(draw.choices(words, k=draw.randint(5, 70))) for n in range(40)]
    memories = {f"m{n:02}": Memory(f"m{n:02}", text) for n, text in enumerate(texts)}
    queries = {f"q{n}": Query(f"q{n}", " ".join(draw.choices(words, k=4)) + f" memory{n}") for n in range(12)}
    dataset = RetrievalDataset("made up", memories, queries, {f"q{n}": {f"m{n:02}": 1.0} for n in range(12)})
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    shutil.copytree(model, folder.model)
    write_json(folder.manifest, {"format_version": 2, "base_model": str(model)})
    record(folder, {"dense": 1.0}, windows=True)
    encoder, base = Encoder.load(folder.model), Encoder.load(model)
    write_index(dataset.memories.values(), tuned=encoder, base=base, path=folder.index, serving=folder.serving())
    data = EvaluationSet.of(dataset, sorted(queries))
    windows = {"tuned": CorpusWindows.of(encoder, data.corpus).encode()}
    encoded = {"base": EncodedSet.of(data, encoder), "tuned": EncodedSet.of(data, encoder)}
    systems = ServableSystems.of(
        data, {"base": base, "tuned": encoder}, encoded, late_interaction=False, windows=windows
    )
    return folder, systems


def record(run: RunFolder, weights: dict[str, float], **serving: object) -> None:
    fusion = {"kind": "convex", "weights": weights, "depth": 100}
    write_json(run.report, {"serving": {"vectors": "model", "weights": [1.0, 0.0], "fusion": fusion, **serving}})


@pytest.mark.slow
@pytest.mark.parametrize("weights", [{"dense": 1.0}, {"dense": 0.7, "bm25": 0.3}], ids=["dense", "hybrid"])
@pytest.mark.parametrize("offset", [None, 0.1], ids=["windows", "known queries too"])
def test_retriever_ranks_what_the_evaluation_ranked(
    run: tuple[RunFolder, ServableSystems], weights: dict[str, float], offset: float | None
) -> None:
    folder, systems = run
    data = systems.data
    structure = Structure("tuned", "convex", tuple(weights), (tuple(weights.values()),), tuple(weights.values()), True)
    known, serving = None, {}
    if offset is not None:
        encoder = Encoder.load(folder.model)
        asked = KnownQueries(data.queries[:6], tuple((data.corpus_ids[row],) for row in range(20, 26)))
        texts = dict(zip(data.corpus_ids, data.corpus, strict=True))
        build_known_queries(asked, texts, encoder, folder=known_query_folder(folder.index))
        known = FurtherVectors.of(encoder.encode_queries(asked.texts), np.arange(20, 26))
        serving = {"known_query_offset": offset}
    system = systems.system(structure, 0, name="served", trained=True, known=known, offset=offset)
    cut = Structure("tuned", "convex", tuple(weights), (tuple(weights.values()),), tuple(weights.values()))
    plain = systems.system(cut, 0, name="plain", trained=True)
    assert (system.rankings[:, :10] != plain.rankings[:, :10]).any(axis=1).sum() >= 6
    record(folder, weights, windows=True, **serving)
    retriever = FineTunedHybridRetriever.from_run(folder.path, similarity_top_k=20)
    try:
        for query, rows, scores in zip(data.queries, system.rankings, system.scores, strict=True):
            hits = retriever.retrieve(query)
            assert hits[0].skipped_legs == []
            assert [hit.node.node_id for hit in hits] == [data.corpus_ids[row] for row in rows[:20]]
            assert [hit.score for hit in hits] == pytest.approx(scores[:20].tolist(), abs=2e-6)
    finally:
        retriever.close()
    with FineTunedRetrieval(folder.model) as original:
        found = original.search(data.queries[0], limit=20, threshold=-1.0, use_hybrid=True)
        first = system.rankings[0, :20]
        assert [one["id"] for one in found] == [data.corpus_ids[row] for row in first]


@pytest.mark.slow
def test_doctor_says_what_is_truncated_and_whether_windows_are_there(run: tuple[RunFolder, ServableSystems]) -> None:
    folder, _ = run
    record(folder, {"dense": 1.0}, windows=True)
    report = {"truncated": 25, "memories": 40, "tokens": 30, "used": True}
    given = {"serving": {"vectors": "model", "weights": [1, 0], "windows": True}, "choice": {"windows": report}}
    write_json(folder.report, given)
    found = check_index(folder.path)
    assert found["windows"] == "40 of 40 memories"
    assert found["truncated"] == "25 of 40 memories exceed 30 tokens; windows of the rest are served"
    moved = window_folder(folder.index).rename(folder.path / "moved")
    try:
        (problem,) = check_index(folder.path)["problems"]
        assert "no windows of long texts" in problem
        retriever = FineTunedHybridRetriever.from_run(folder.path)
        hits = retriever.retrieve("rotate keys")
        assert [hits[0].skipped_legs, retriever.fallbacks["windows", "missing"]] == [["windows"], 1]
        retriever.close()
    finally:
        moved.rename(window_folder(folder.index))
