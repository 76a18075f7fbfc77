"""The skew between the texts of training and those of a collection is named."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.retrievers.other_texts import warn_of_other_texts
from llama_index_ace_finetune.run_folder import RunFolder

IDS = [str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in ("uploads", "keys")]


def run_trained_on(folder: Path, texts: list[str]) -> RunFolder:
    examples = (TrainingExample(query_id="q", query="why", positive_ids=(IDS[0],), negatives=(), split="train"),)
    run = RunFolder(folder)
    TrainingData(examples=examples, memories=dict(zip(IDS, texts, strict=True))).save(run.training_data)
    return run


def test_other_texts_are_warned_of_and_equal_ones_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = QdrantClient(":memory:")
    nodes = [TextNode(id_=key, text=f"About {key}", metadata={"team": "it"}, embedding=[1.0, 0.0]) for key in IDS]
    QdrantVectorStore("notes", client=client).add(nodes)
    bare = [f"About {key}" for key in IDS]
    warn_of_other_texts(client, "notes", run_trained_on(tmp_path, [f"team: it\n\n{text}" for text in bare]))
    warn_of_other_texts(client, "notes", None)
    warn_of_other_texts(client, "notes", RunFolder(tmp_path / "nothing"))
    assert caplog.messages == []
    warn_of_other_texts(client, "notes", run_trained_on(tmp_path, bare))
    (message,) = caplog.messages
    assert message.startswith("2 of 2 compared nodes of 'notes' embed another text than the model was trained with")
