"""Points without a readable node: left out with a warning and a count; everything else works."""

from __future__ import annotations

import json
import logging
import uuid
from typing import Any

import numpy as np
import pytest
from helpers.small_stores import MakeStore, node, vectors
from helpers.words_embedding import tuned_and_base, words_retriever, words_store
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    TextNode,
)
from qdrant_client import models

from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.legs.lexical_leg import LexicalLeg
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED, MemoryStore

RED = {"text": "red", "id_": "x"}
UNREADABLE: list[dict[str, Any] | None] = [
    None,
    {},
    {"text": "red apples", "source": "another tool"},
    {"_node_content": None, "_node_type": "TextNode"},
    {"_node_content": 7},
    {"_node_content": {**RED}},
    {"_node_content": [RED]},
    {"_node_content": ""},
    {"_node_content": "{"},
    {"_node_content": "null"},
    {"_node_content": "[]"},
    {"_node_content": "[" * 100_000},
    {"_node_content": json.dumps({**RED, "text": 5})},
    {"_node_content": json.dumps({**RED, "id_": None})},
    {"_node_content": json.dumps({**RED, "metadata": 3})},
    {"_node_content": json.dumps({**RED, "relationships": {"9": 1}})},
    {"_node_content": json.dumps({**RED, "excluded_embed_metadata_keys": 7, "metadata": {"a": 1}})},
    {"_node_content": json.dumps(RED), "_node_type": "IndexNode"},  # without an index_id
]
OTHER_NODES: list[BaseNode] = [
    Document(text="", id_="blank document"),
    Document(text="red apples", id_="document"),
    Node(id_="node", text_resource=MediaResource(text="red apples")),
    Node(id_="blank node"),
    TextNode(id_="blank text", text=""),
    ImageNode(id_="image", image="abc"),
    ImageDocument(text="red apples", id_="image document"),
    IndexNode(id_="index", text="red apples", index_id="i"),
]


@pytest.mark.parametrize("payload", UNREADABLE, ids=range(len(UNREADABLE)))
def test_unreadable_point_is_left_out(payload: dict[str, Any] | None, caplog: pytest.LogCaptureFixture) -> None:
    store = words_store([node("a", "red apples"), node("b", "green pears")])
    row = dict.fromkeys((FINETUNED, BASELINE), tuned_and_base()[0].vector("red apples"))
    point = models.PointStruct(id=str(uuid.UUID(int=7)), vector=row, payload=payload)
    store.client.upsert(store.collection, [point])
    tuned, base = tuned_and_base()
    retriever = FineTunedHybridRetriever(store, embed_model=tuned, baseline_model=base, similarity_top_k=2)
    with caplog.at_level(logging.WARNING):
        for mode in ("hybrid", "sparse", "dense"):
            hits = retriever.search("red apples", mode=mode, similarity_top_k=2 if mode == "hybrid" else 3)
            assert hits[0].node.node_id == "a", mode
            assert len(hits) == (1 if mode == "sparse" else 2)
    assert store.unreadable == 1
    warnings = [record.getMessage() for record in caplog.records if "no LlamaIndex node" in record.getMessage()]
    assert len(warnings) == 1
    assert "1 points in memory" in warnings[0]
    assert str(uuid.UUID(int=7)) in warnings[0]
    assert sorted(found.node_id for found in store.nodes()) == ["a", "b"]


def test_other_nodes_are_read_and_found(make_store: MakeStore) -> None:
    store: MemoryStore = make_store()
    store.upsert(OTHER_NODES, vectors(len(OTHER_NODES)))
    read = {found.node_id: found for found in store.nodes()}
    assert set(read) == {one.node_id for one in OTHER_NODES}
    for one in OTHER_NODES:
        assert read[one.node_id].get_content(MetadataMode.EMBED) == one.get_content(MetadataMode.EMBED)
    hits = {name for name, _ in LexicalLeg(store).search("red apples", 9)}
    assert hits == {"document", "node", "image document", "index"}
    assert len(store.search(FINETUNED, vectors(1)[FINETUNED][0].tolist(), 99)) == len(OTHER_NODES)
    assert store.unreadable == 0
    assert store.changed(OTHER_NODES) == []


@pytest.mark.parametrize("mode", ["hybrid", "sparse", "dense"])
def test_blank_document_does_not_break_searches(mode: str) -> None:
    retriever = words_retriever([Document(text=""), Document(text="red apples", id_="a")], mode=mode)
    assert retriever.retrieve("red apples")[0].node.node_id == "a"


def test_points_with_ids_of_another_tool_are_found(make_store: MakeStore) -> None:
    """Searches return the ids of the points; the nodes keep their own ids."""
    store = make_store()
    rows = {name: np.repeat(row[:1], 2, axis=0).tolist() for name, row in vectors(1).items()}
    for place, point in enumerate([7, str(uuid.UUID(int=9))]):
        payload = {"_node_content": node(f"memory {place}", "red apples").to_json(), "_node_type": "TextNode"}
        row = {name: values[place] for name, values in rows.items()}
        store.client.upsert(store.collection, [models.PointStruct(id=point, vector=row, payload=payload)])
    for hits in (store.search(FINETUNED, rows[FINETUNED][0], 5), LexicalLeg(store).search("apples", 5)):
        nodes = store.get([name for name, _ in hits])
        assert {found.node_id for found in nodes.values()} == {"memory 0", "memory 1"}
