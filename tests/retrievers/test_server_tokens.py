"""Late interaction by the multivectors of a server's collection."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import QUERIES, TEXTS
from helpers.small_stores import node
from llama_index.core.schema import MetadataMode
from qdrant_client import QdrantClient

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.late_interaction.trained_projection import write_trained_projection
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.legs import server_token_leg
from llama_index_ace_finetune.retrievers.open_tokens import build_tokens, token_encoders
from llama_index_ace_finetune.stores.build_index import build_index
from llama_index_ace_finetune.stores.memory_store import FINETUNED
from llama_index_ace_finetune.stores.point_ids import point_id
from llama_index_ace_finetune.stores.upsert_nodes import upsert_nodes

OPTIONS = {
    "fusion": "convex", "leg_weights": {"dense": 0.4, "bm25": 0.2, "late": 0.4}, "similarity_top_k": 12,
}  # fmt: skip
NODES = [node(name, text) for name, text in TEXTS.items()]


@pytest.fixture
def place(qdrant_url: str) -> Iterator[dict[str, str]]:
    name = f"tokens-{uuid.uuid4().hex}"
    yield {"url": qdrant_url, "collection": name}
    client = QdrantClient(url=qdrant_url)
    client.delete_collection(name)
    client.close()


@pytest.fixture(scope="module")
def model(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tuned model outside its run, with a trained projection."""
    folder = shutil.copytree(finished_run / "model", tmp_path_factory.mktemp("alone") / "model")
    width = FineTunedEmbedding(str(folder)).encoder.dimension
    write_trained_projection(folder, np.random.default_rng(0).standard_normal((width, 48)).astype(np.float32))
    return folder


@pytest.fixture
def late(place: dict[str, str], model: Path) -> Iterator[FineTunedHybridRetriever]:
    retriever = FineTunedHybridRetriever.from_nodes(NODES, model=model, baseline=None, **place, **OPTIONS)
    yield retriever
    retriever.close()


def texts_of(retriever: FineTunedHybridRetriever) -> dict[str, str]:
    return {one.node_id: one.get_content(MetadataMode.EMBED) for one in retriever._search.store.nodes()}


def expect_max_sim(retriever: FineTunedHybridRetriever, query: str) -> None:
    """The leg's scores are those of the kernel over the texts in the store, as is their order."""
    encoder = retriever._search.store.tokens.encoder
    texts = texts_of(retriever)
    own = TokenReranker.build(
        encoder.encoder, list(texts), list(texts.values()), settings=TokenSettings(dimension=None, bits=8),
        projection=encoder.projection,
    )  # fmt: skip
    hits = retriever.search(query)
    names = [hit.node.node_id for hit in hits]
    expected = own.score(encoder.encode_queries([query])[0], names)
    found = np.array([hit.leg_scores["late"] for hit in hits])
    assert hits
    assert found == pytest.approx(expected, abs=5e-3)
    far = expected[:, None] - expected[None] > 0.01
    assert (found[:, None] > found[None])[far].all()
    assert hits[0].skipped_legs == []
    assert retriever.fallbacks == {}


def test_server_gives_the_order_of_the_kernel(late: FineTunedHybridRetriever) -> None:
    assert late._search.store.tokens.encoder.dimension == 48
    for query in list(QUERIES.values())[:4]:
        expect_max_sim(late, query)


def test_collection_is_opened_by_its_model(late: FineTunedHybridRetriever, place: dict[str, str], model: Path) -> None:
    again = FineTunedHybridRetriever.from_collection(model=model, baseline=None, **place, **OPTIONS)
    query = QUERIES["cache"]
    assert [(hit.node.node_id, hit.score) for hit in again.search(query)] == [
        (hit.node.node_id, hit.score) for hit in late.search(query)
    ]
    assert again.build_token_vectors() == 0
    again.close()


def test_token_vectors_follow_writes(late: FineTunedHybridRetriever) -> None:
    store = late._search.store
    encoders = {FINETUNED: store.tokens.encoder.encoder}
    upsert_nodes(store, [node("backup", "Rotate tyres in spring."), node("new", "Check the oil.")], encoders)
    store.delete(["alerts"])
    assert store.tokens.missing() == []
    assert "alerts" not in texts_of(late)
    expect_max_sim(late, "Rotate tyres in spring.")
    # Another program writes the points of two memories without token vectors.
    changed = [node("cache", "Bleed the brakes."), node("other", "Wax the car.")]
    tokens, store.tokens = store.tokens, None
    upsert_nodes(store, changed, encoders)
    store.tokens = tokens
    assert set(tokens.missing()) == {point_id("cache"), point_id("other")}
    expect_max_sim(late, "Bleed the brakes.")
    assert tokens.missing() == []


def test_too_many_memories_without_token_vectors(
    late: FineTunedHybridRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = late._search.store
    points = [point_id(name) for name in TEXTS]
    store.client.delete_vectors(store.collection, vectors=["tokens"], points=points)
    monkeypatch.setattr(server_token_leg, "MAX_ENCODED", 1)
    assert late.search(QUERIES["cache"])[0].skipped_legs == ["late"]
    assert late.fallbacks == {("late", "error"): 1}
    assert late.build_token_vectors() == len(TEXTS)
    assert late.search(QUERIES["cache"])[0].skipped_legs == []


class TestSkipped:
    """One sentence in the log; the other legs keep their weights; results and counters name the leg."""

    def expect(self, place: dict[str, str], model: Path | str, caplog: pytest.LogCaptureFixture, sentence: str) -> None:
        with caplog.at_level(logging.WARNING, logger="llama_index_ace_finetune"):
            late = FineTunedHybridRetriever.from_collection(model=model, baseline=None, **place, **OPTIONS)
        said = [record.getMessage() for record in caplog.records if "late interaction" in record.getMessage()]
        assert len(said) == 1
        assert sentence in said[0]
        hits = late.search(QUERIES["cache"])
        assert (hits[0].served_by, hits[0].skipped_legs) == ("finetuned", ["late"])
        assert late.fallbacks["late", "missing"] == 1
        without = late.search(QUERIES["cache"], leg_weights={"dense": 0.4, "bm25": 0.2})
        assert [(hit.node.node_id, hit.score) for hit in hits] == [(hit.node.node_id, hit.score) for hit in without]
        late.close()

    def test_collection_without_token_vectors(
        self, place: dict[str, str], model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        FineTunedHybridRetriever.from_nodes(NODES, model=model, baseline=None, **place).close()
        self.expect(place, model, caplog, "has no multivectors for late interaction; build it again")

    def test_token_vectors_of_another_projection(
        self, place: dict[str, str], model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        FineTunedHybridRetriever.from_nodes(NODES, model=model, baseline=None, **place, **OPTIONS).close()
        other = shutil.copytree(model, tmp_path / "model")
        write_trained_projection(other, np.eye(384, 48, dtype=np.float32))
        self.expect(place, other, caplog, "were made by another model or projection")

    def test_server_that_ignores_multivectors(
        self, place: dict[str, str], model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = QdrantClient.create_collection

        def old(self: QdrantClient, *args: object, vectors_config: dict, **options: object) -> bool:
            tokens = vectors_config["tokens"].model_copy(update={"multivector_config": None})
            return real(self, *args, vectors_config=vectors_config | {"tokens": tokens}, **options)

        monkeypatch.setattr(QdrantClient, "create_collection", old)
        with caplog.at_level(logging.WARNING, logger="llama_index_ace_finetune"):
            late = FineTunedHybridRetriever.from_nodes(NODES, model=model, baseline=None, **place, **OPTIONS)
        assert "late interaction is skipped: The collection" in caplog.text
        assert late.search(QUERIES["cache"])[0].skipped_legs == ["late"]
        late.close()
        caplog.clear()
        self.expect(place, model, caplog, "has no multivectors for late interaction; build it again")

    def test_failing_server(self, late: FineTunedHybridRetriever, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise StoreError("The index in 'there' cannot be used (500); check that it exists and is complete.")

        monkeypatch.setattr(late._search.store.tokens, "scores", broken)
        assert late.search(QUERIES["cache"])[0].skipped_legs == ["late"]
        assert late.fallbacks == {("late", "error"): 1}


def test_projection_of_the_run_is_preferred(tuned: FineTunedEmbedding, model: Path, tmp_path: Path) -> None:
    alone = FineTunedEmbedding(str(model))
    assert [each.dimension for each in token_encoders(alone, None)] == [48, 384]
    with build_index(NODES[:4], finetuned=tuned.encoder, baseline=None) as store:
        own = build_tokens(store, tuned.encoder, folder=tmp_path / "tokens", settings=TokenSettings(dimension=8))
    found = token_encoders(tuned, tmp_path)
    assert [each.fingerprint for each in found] == [own.encoder.fingerprint, TokenEncoder(tuned.encoder).fingerprint]
    (tmp_path / "tokens" / "meta.json").write_text("{")
    assert len(token_encoders(tuned, tmp_path)) == 1
