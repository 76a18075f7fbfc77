"""Qdrant's multivectors against our own MaxSim."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from helpers.small_stores import unit_rows
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.max_sim import max_sim
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.stores.qdrant.token_vectors import (
    TOKENS,
    require_token_vectors,
    score_token_vectors,
    token_vector_params,
    upload_token_vectors,
)
from llama_index_ace_finetune.utils.ragged import offsets_of

DIMENSION, MEMORIES = 16, 60
DENSE = {"finetuned": models.VectorParams(size=4, distance=models.Distance.COSINE)}


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    client.create_collection("memories", vectors_config={**DENSE, **token_vector_params(DIMENSION)})
    yield client
    client.close()


def made_up(count: int, seed: int) -> TokenVectors:
    lengths = np.random.default_rng(seed).integers(0, 9, count)
    return TokenVectors(unit_rows(int(lengths.sum()), DIMENSION, seed), offsets_of(lengths))


def points_of(client: QdrantClient, count: int) -> list[str]:
    points = [str(uuid.UUID(int=number)) for number in range(count)]
    rows = unit_rows(count, 4)
    client.upsert(
        "memories",
        [
            models.PointStruct(id=point, vector={"finetuned": row.tolist()}, payload={})
            for point, row in zip(points, rows, strict=True)
        ],
    )
    return points


def test_order_of_qdrant_is_that_of_max_sim(client: QdrantClient) -> None:
    points, tokens = points_of(client, MEMORIES), made_up(MEMORIES, 1)
    upload_token_vectors(client, "memories", "memory", points, tokens)
    require_token_vectors(client, "memories", "memory", dimension=DIMENSION)
    chosen = np.random.default_rng(2).permutation(MEMORIES)[:40]
    for seed in range(3, 8):
        query = unit_rows(seed, DIMENSION, seed)
        found = score_token_vectors(client, "memories", "memory", query, [points[row] for row in chosen])
        expected = max_sim(query, tokens, chosen)
        assert np.abs(found - expected).max() < 1e-3
        assert (np.argsort(-found, kind="stable") == np.argsort(-expected, kind="stable")).all()
        assert ((found == -1) == (tokens.lengths[chosen] == 0)).all()


def test_token_vectors_are_replaced_and_deleted(client: QdrantClient) -> None:
    points, tokens = points_of(client, 3), TokenVectors(unit_rows(6, DIMENSION), np.array([0, 2, 4, 6]))
    upload_token_vectors(client, "memories", "memory", points, tokens)
    replaced = TokenVectors(unit_rows(1, DIMENSION, 5), np.array([0, 0, 1]))
    upload_token_vectors(client, "memories", "memory", points[:2], replaced)
    found = score_token_vectors(client, "memories", "memory", replaced[1], points)
    assert found[:2].tolist() == [-1, pytest.approx(1, abs=1e-3)]
    assert found[2] == pytest.approx(max_sim(replaced[1], tokens, np.array([2]))[0], abs=1e-3)
    assert score_token_vectors(client, "memories", "memory", replaced[0], points).tolist() == [-1] * 3
    assert client.retrieve("memories", [points[0]], with_vectors=True)[0].vector.keys() == {"finetuned"}


def test_collections_without_multivectors_are_refused() -> None:
    """So does a server before version 1.10, which ignores the setting."""
    client = QdrantClient(":memory:")
    plain = {TOKENS: models.VectorParams(size=DIMENSION, distance=models.Distance.DOT)}
    client.create_collection("without", vectors_config=DENSE)
    client.create_collection("ignored", vectors_config={**DENSE, **plain})
    for collection in ("without", "ignored"):
        with pytest.raises(StoreError, match="has no multivectors for late interaction; build it again"):
            require_token_vectors(client, collection, "memory", dimension=DIMENSION)
    client.create_collection("other", vectors_config=token_vector_params(8))
    with pytest.raises(StoreError, match="have 8 dimensions instead of 16"):
        require_token_vectors(client, "other", "memory", dimension=DIMENSION)
    with pytest.raises(StoreError):
        score_token_vectors(client, "without", "memory", unit_rows(2, DIMENSION), [1])
