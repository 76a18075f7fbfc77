"""Quantised vectors on a server: candidates by them, cosines by the original vectors."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from helpers.small_stores import node, unit_rows
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionSettings, Quantization, read_settings
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector

COUNT, DIMENSION = 300, 64


@pytest.fixture(params=["scalar", "binary"])
def store(request: pytest.FixtureRequest, qdrant_url: str) -> Iterator[MemoryStore]:
    quantization: Quantization = request.param
    settings = CollectionSettings(quantization=quantization, shard_number=2)
    named = {FINETUNED: NamedVector(DIMENSION, "f" * 32, "tuned")}
    name = f"test-{uuid.uuid4().hex}"
    with MemoryStore.create(named, url=qdrant_url, collection=name, collection_options=settings) as made:
        made.upsert([node(f"n{row}") for row in range(COUNT)], {FINETUNED: unit_rows(COUNT, DIMENSION)})
        yield made
        made.client.delete_collection(name)


def test_cosines_are_those_of_the_original_vectors(store: MemoryStore) -> None:
    rows, query = unit_rows(COUNT, DIMENSION), unit_rows(1, DIMENSION, seed=9)
    exact = (rows @ query[0]).astype(float)
    wanted = [f"n{row}" for row in range(0, COUNT, 7)]
    found = dict(store.cosines(FINETUNED, query, [wanted])[0])
    assert found.keys() == set(wanted)
    assert all(found[name] == pytest.approx(exact[int(name[1:])], abs=1e-5) for name in wanted)
    hits = store.search(FINETUNED, query[0].tolist(), 10)
    assert [score for _, score in hits] == pytest.approx([exact[int(name[1:])] for name, _ in hits], abs=1e-5)
    assert len({name for name, _ in hits} & {f"n{row}" for row in np.argsort(-exact)[:10]}) >= 5


def test_settings_are_read_from_the_collection(store: MemoryStore, qdrant_url: str) -> None:
    found = read_settings(store.client, store.collection, store.location, FINETUNED)
    assert found.shard_number == 2
    client = QdrantClient(url=qdrant_url)
    vectors = client.get_collection(store.collection).config.params.vectors
    client.close()
    kinds = {"scalar": models.ScalarQuantization, "binary": models.BinaryQuantization}
    assert isinstance(vectors[FINETUNED].quantization_config, kinds[found.quantization])
