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
from llama_index_ace_finetune.stores.qdrant import token_vectors
from llama_index_ace_finetune.stores.qdrant.token_vectors import (
    TOKENS,
    point_groups,
    require_token_vectors,
    score_token_vectors,
    token_metadata,
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
    chosen = np.random.default_rng(2).permutation(MEMORIES)[:40]
    for seed in range(3, 8):
        query = unit_rows(seed, DIMENSION, seed)
        found = score_token_vectors(client, "memories", "memory", query, [points[row] for row in chosen])
        assert (np.isnan(found) == (tokens.lengths[chosen] == 0)).all()
        found = np.nan_to_num(found, nan=-1)
        expected = max_sim(query, tokens, chosen)
        assert np.abs(found - expected).max() < 1e-3
        assert (np.argsort(-found, kind="stable") == np.argsort(-expected, kind="stable")).all()


def test_token_vectors_are_replaced_and_deleted(client: QdrantClient) -> None:
    points, tokens = points_of(client, 3), TokenVectors(unit_rows(6, DIMENSION), np.array([0, 2, 4, 6]))
    upload_token_vectors(client, "memories", "memory", points, tokens)
    replaced = TokenVectors(unit_rows(1, DIMENSION, 5), np.array([0, 0, 1]))
    upload_token_vectors(client, "memories", "memory", points[:2], replaced)
    found = score_token_vectors(client, "memories", "memory", replaced[1], points)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(1, abs=1e-3)
    assert found[2] == pytest.approx(max_sim(replaced[1], tokens, np.array([2]))[0], abs=1e-3)
    assert score_token_vectors(client, "memories", "memory", replaced[0], points).tolist() == [-1] * 3
    assert client.retrieve("memories", [points[0]], with_vectors=True)[0].vector.keys() == {"finetuned"}


def test_points_are_written_in_groups_of_one_request(client: QdrantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_vectors, "_NUMBERS_AT_ONCE", 3 * DIMENSION)
    tokens = TokenVectors(unit_rows(9, DIMENSION), np.array([0, 2, 3, 3, 7, 8, 9]))
    points = [models.PointStruct(id=place, vector={"finetuned": [0.0, 0, 0, 1]}) for place in range(6)]
    groups = list(point_groups(points, tokens))
    assert [[point.id for point in group] for group in groups] == [[0, 1, 2], [3], [4, 5]]
    assert [len(point.vector.get(TOKENS, [])) for point in points] == [2, 1, 0, 4, 1, 1]
    for group in groups:
        client.upsert("memories", group)
    upload_token_vectors(client, "memories", "memory", [1, 3], tokens.select(np.array([0, 4])))
    found = score_token_vectors(client, "memories", "memory", tokens[0], [0, 1, 2])
    assert found[0] == found[1] == pytest.approx(1, abs=1e-3)
    assert np.isnan(found[2])


class _Encoder:
    """What `require_token_vectors` reads of an encoder."""

    def __init__(self, fingerprint: str, dimension: int = DIMENSION) -> None:
        self.fingerprint, self.dimension, self.encoder = fingerprint, dimension, self
        self.name = "a-model"


def test_collections_without_multivectors_are_refused() -> None:
    """So does a server before version 1.10, which ignores the setting."""
    client, encoder = QdrantClient(":memory:"), _Encoder("1")
    plain = {TOKENS: models.VectorParams(size=DIMENSION, distance=models.Distance.DOT)}
    client.create_collection("without", vectors_config=DENSE)
    client.create_collection("ignored", vectors_config={**DENSE, **plain})
    for collection in ("without", "ignored"):
        with pytest.raises(StoreError, match="has no multivectors for late interaction; build it again"):
            require_token_vectors(client, collection, "memory", [encoder])
    with pytest.raises(StoreError):
        score_token_vectors(client, "without", "memory", unit_rows(2, DIMENSION), [1])


@pytest.mark.parametrize("metadata", [{}, token_metadata("2"), {"ace_finetune_tokens": {}}, {"ace_finetune_tokens": 7}])
def test_multivectors_of_another_model_are_refused(metadata: dict) -> None:
    client = QdrantClient(":memory:")
    client.create_collection("other", vectors_config=token_vector_params(DIMENSION), metadata=metadata)
    for encoders in ([_Encoder("1")], [_Encoder("1"), _Encoder("2", 8)]):
        with pytest.raises(StoreError, match="made by another model or projection than that of 'a-model'; build"):
            require_token_vectors(client, "other", "memory", encoders)


def test_the_encoder_that_made_the_multivectors_is_chosen() -> None:
    client, encoder = QdrantClient(":memory:"), _Encoder("2")
    client.create_collection(
        "ours", vectors_config=token_vector_params(DIMENSION), metadata=token_metadata(encoder.fingerprint)
    )
    assert require_token_vectors(client, "ours", "memory", [_Encoder("1"), encoder]) is encoder
