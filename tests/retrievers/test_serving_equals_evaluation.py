"""A retriever over a run gives the ids, order and scores that the evaluation of the run ranked."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import BASE
from llama_index.core.schema import NodeWithScore

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.choosing.structures import Structure
from llama_index_ace_finetune.evaluation.servable_systems import ServableSystems
from llama_index_ace_finetune.evaluation.systems import (
    EncodedSet,
    EvaluationSet,
    bm25_system,
    dense_system,
    hybrid_system,
)
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.pipeline.index import write_index
from llama_index_ace_finetune.ranking.further_vectors import FurtherVectors
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.open_known_queries import build_known_queries
from llama_index_ace_finetune.run_folder import RunFolder, known_query_folder
from llama_index_ace_finetune.utils.atomic import write_json

pytestmark = pytest.mark.slow  # it encodes the tokens of a corpus several times
SYSTEMS: list[Mapping[Leg, float]] = [
    {"dense": 1.0},
    {"dense": 0.7, "bm25": 0.3},
    {"dense": 0.3, "late": 0.7},
    {"dense": 0.3, "base": 0.1, "bm25": 0.1, "bm25_unstemmed": 0.1, "char_ngrams": 0.1, "late": 0.3},
    {"bm25": 0.5, "bm25_unstemmed": 0.5},
]


def _dataset(folder: Path, *, copies: bool) -> RetrievalDataset:
    """150 memories of random words, 60 of them with copies, or none; 25 queries."""
    draw = random.Random(7)
    words = ["cached", "caching", "deploy", "deployment", "server", "keys", "rotate", "backup", "queue", "retry", "E12"]
    rows = [
        {
            "query": " ".join(draw.choices(words, k=4)) + f" {place}" if place < 25 else "",
            "positive": f"memory{place} " + " ".join(draw.choices(words, k=draw.randint(4, 25))),
        }
        for place in range(150)
    ]
    pairs, rest = rows[:25], rows[25:]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), "utf-8")
    texts = [row["positive"] for row in rest]
    if copies:
        texts += texts[:60] + texts[20:40]
        draw.shuffle(texts)
    inventory = folder / "inventory.jsonl"
    inventory.write_text(
        "".join(json.dumps({"id": f"m{place}", "text": text}) + "\n" for place, text in enumerate(texts)), "utf-8"
    )
    return read_dataset(folder / "pairs.jsonl", inventory)


@pytest.fixture(scope="module", params=[False, True], ids=["distinct", "copies"])
def served(
    request: pytest.FixtureRequest, finished_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, ServableSystems, RetrievalDataset]:
    """A run folder of the dataset, the legs of its evaluation, and the dataset."""
    dataset = _dataset(tmp_path_factory.mktemp("data"), copies=request.param)
    assert len(dataset.answers) == 150
    assert len(dataset.memories) == (230 if request.param else 150)
    run = RunFolder(tmp_path_factory.mktemp("served"))
    (run.path / "model").symlink_to(finished_run / "model")
    write_json(run.manifest, {"format_version": 2, "base_model": BASE})
    _record(run, SYSTEMS[3])
    tuned, base = Encoder.load(run.model), Encoder.load(BASE)
    corpus = [memory.text for memory in dataset.answers.values()]
    data = EvaluationSet.of(dataset, sorted(dataset.queries))
    encoders = {"base": base, "tuned": tuned}
    encoded = {name: EncodedSet.of(data, encoder) for name, encoder in encoders.items()}
    # As in a run: a text in another batch has other last digits, which may round to another code.
    tokens: dict[str, TokenReranker] = {}
    systems = ServableSystems.of(data, encoders, encoded, kept_tokens=tokens)
    write_index(
        dataset.memories.values(),
        tuned=tuned,
        base=base,
        path=run.index,
        serving=run.serving(),
        corpus=corpus,
        tokens=tokens[tuned.fingerprint],
    )
    return run, systems, dataset


def _record(run: RunFolder, weights: Mapping[Leg, float], *, kind: str = "convex", **serving: object) -> None:
    fusion = {"kind": kind, "weights": dict(weights), "depth": 100}
    write_json(run.report, {"serving": {"vectors": "model", "weights": [0.5, 0.5], "fusion": fusion, **serving}})


def _without_copies(hits: Sequence[NodeWithScore], dataset: RetrievalDataset) -> dict[str, float]:
    first: dict[str, float] = {}
    for hit in hits:
        first.setdefault(dataset.answer_ids[hit.node.node_id], hit.score or 0.0)
    return first


@pytest.mark.parametrize("weights", SYSTEMS, ids=lambda weights: "+".join(weights))
def test_retriever_ranks_what_the_evaluation_ranked(
    served: tuple[RunFolder, ServableSystems, RetrievalDataset], weights: Mapping[Leg, float]
) -> None:
    run, systems, dataset = served
    structure = Structure("tuned", "convex", tuple(weights), (tuple(weights.values()),), tuple(weights.values()))
    system = systems.system(structure, 0, name="served", trained=True)
    _record(run, weights)
    retriever = FineTunedHybridRetriever.from_run(run.path, similarity_top_k=20)
    data = systems.data
    try:
        for query, rows, scores in zip(data.queries, system.rankings, system.scores, strict=True):
            expected = {data.corpus_ids[row]: score for row, score in zip(rows, scores, strict=True) if row >= 0}
            hits = retriever.retrieve(query)
            assert hits[0].skipped_legs == []
            found = _without_copies(hits, dataset)
            assert len(found) == min(20, len(expected)) > 0 or len(found) < len(hits) == 20
            assert list(found) == list(expected)[: len(found)]
            assert list(found.values()) == pytest.approx(list(expected.values())[: len(found)], abs=2e-6)
    finally:
        retriever.close()


@pytest.mark.parametrize("weights", SYSTEMS[:4], ids=lambda weights: "+".join(weights))
def test_retriever_with_known_queries_ranks_what_the_evaluation_ranked(
    served: tuple[RunFolder, ServableSystems, RetrievalDataset], weights: Mapping[Leg, float]
) -> None:
    run, systems, dataset = served
    data, encoder = systems.data, Encoder.load(run.model)
    # Another memory than that of the query, so that known queries change the ranking.
    known = KnownQueries(data.queries[:15], tuple((data.corpus_ids[row],) for row in range(40, 55)))
    build_known_queries(
        known, {i: m.text for i, m in dataset.answers.items()}, encoder, folder=known_query_folder(run.index)
    )
    vectors = FurtherVectors.of(encoder.in_float32().encode_queries(known.texts), np.arange(40, 55))
    structure = Structure("tuned", "convex", tuple(weights), (tuple(weights.values()),), tuple(weights.values()))
    system = systems.system(structure, 0, name="served", trained=True, known=vectors, offset=0.2)
    plain = systems.system(structure, 0, name="plain", trained=True)
    assert (system.rankings[:, :20] != plain.rankings[:, :20]).any(axis=1).sum() >= 5
    _record(run, weights, known_query_offset=0.2)
    retriever = FineTunedHybridRetriever.from_run(run.path, similarity_top_k=20)
    try:
        for query, rows, scores in zip(data.queries, system.rankings, system.scores, strict=True):
            expected = {data.corpus_ids[row]: score for row, score in zip(rows, scores, strict=True) if row >= 0}
            hits = retriever.retrieve(query)
            assert hits[0].skipped_legs == []
            found = _without_copies(hits, dataset)
            assert list(found) == list(expected)[: len(found)]
            assert list(found.values()) == pytest.approx(list(expected.values())[: len(found)], abs=2e-6)
    finally:
        retriever.close()


def test_rank_fusion_ranks_what_the_evaluation_ranked(
    served: tuple[RunFolder, ServableSystems, RetrievalDataset],
) -> None:
    run, systems, dataset = served
    data = systems.data
    dense = dense_system(data, systems.legs["tuned"].dense, name="tuned", trained=True)
    lexical = bm25_system(data, index=systems.bm25)
    system = hybrid_system(dense, lexical, name="tuned + BM25", weights=(0.7, 0.3), copies=data.copies)
    _record(run, {"dense": 0.7, "bm25": 0.3}, kind="rrf")
    retriever = FineTunedHybridRetriever.from_run(run.path, similarity_top_k=20)
    try:
        for query, rows in zip(data.queries, system.rankings, strict=True):
            found = list(_without_copies(retriever.retrieve(query), dataset))
            assert found == [data.corpus_ids[row] for row in rows[: len(found)]]
            assert len(found) >= 5
    finally:
        retriever.close()
