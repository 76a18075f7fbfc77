"""Re-ranking with the default model: what a served retriever calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.max_sim import max_sim
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker, choose_projection
from llama_index_ace_finetune.late_interaction.token_store import TokenStore
from llama_index_ace_finetune.late_interaction.trained_projection import write_trained_projection

MEMORIES = {
    "disk": "When the disk is full, delete the build folder and start the build again.",
    "queue": "Restart the queue worker when jobs stay in the state waiting.",
    "token": "An expired token is refreshed by signing in again.",
    "empty": "",
}


def built(encoder: Encoder, dimension: int | None) -> TokenReranker:
    settings = TokenSettings(dimension=dimension, bits=8, pooling=1)
    return TokenReranker.build(encoder, list(MEMORIES), list(MEMORIES.values()), settings=settings)


@pytest.fixture
def reranker(minilm: Encoder) -> TokenReranker:
    return built(minilm, 32)


def test_scores_are_near_those_of_the_full_token_vectors(minilm: Encoder) -> None:
    reranker = built(minilm, None)
    full = TokenEncoder(minilm)
    query = "jobs are stuck in the queue"
    expected = max_sim(full.encode_queries([query])[0], full.encode_documents(list(MEMORIES.values())), np.arange(4))
    found = reranker.score(reranker.encoder.encode_queries([query])[0], list(MEMORIES))
    assert np.abs(found - expected).max() < 0.005
    assert found.argmax() == expected.argmax() == 1
    queries = reranker.encoder.encode_queries([query, query])
    rows = reranker.store.tokens.rows(list(MEMORIES))
    assert (reranker.score_rows(queries, np.stack([rows, rows[::-1]])) == np.stack([found, found[::-1]])).all()


def test_trained_projection_of_the_model_folder_is_used(minilm: Encoder, tmp_path: Path) -> None:
    assert minilm.folder is not None
    assert built(minilm, 32).store.dimension == 32
    projection = np.linalg.qr(np.random.default_rng(0).standard_normal((384, 20)))[0].astype(np.float32)
    write_trained_projection(tmp_path, projection)
    tuned = Encoder(minilm.model, name="tuned", fingerprint="tuned", settings=minilm.settings, folder=tmp_path)
    reranker = built(tuned, 32)
    assert reranker.store.dimension == 20
    assert np.array_equal(reranker.encoder.projection, projection)  # type: ignore[arg-type]
    # An index, which chooses the projection by a sample of its texts, takes it too.
    chosen = choose_projection(tuned, ["one text"], TokenSettings())
    assert chosen is not None
    assert np.array_equal(chosen, projection)


def test_upserts_and_deletions_are_scored_at_once(reranker: TokenReranker) -> None:
    query = reranker.encoder.encode_queries(["how do I sign in"])[0]
    before = reranker.score(query, ["token", "disk"])
    reranker.upsert(["disk", "new"], [MEMORIES["token"], "Sign in with the button at the top."])
    after = reranker.score(query, ["token", "disk", "new"])
    assert after[0] == after[1] == before[0] > before[1]
    reranker.delete(["disk", "unknown"])
    assert len(reranker.store) == 4
    with pytest.raises(StoreError, match="lack 2 of 3 memories, such as 'disk'; upsert these memories"):
        reranker.score(query, ["new", "disk", "never"])


def test_token_vectors_of_another_model_are_refused(reranker: TokenReranker, minilm: Encoder) -> None:
    with pytest.raises(StoreError, match="made by another model or projection"):
        TokenReranker(TokenEncoder(minilm), reranker.store)
    other = TokenStore(384, TokenEncoder(minilm).fingerprint)
    with pytest.raises(StoreError, match="have 32 dimensions, and those of the store 384"):
        other.upsert(["x"], reranker.encoder.encode_queries(["x"]))
    with pytest.raises(StoreError, match="2 ids for the token vectors of 1"):
        other.upsert(["x", "y"], TokenEncoder(minilm).encode_queries(["x"]))
    with pytest.raises(StoreError, match="occurs twice"):
        other.upsert(["x", "x"], TokenEncoder(minilm).encode_queries(["x", "y"]))
