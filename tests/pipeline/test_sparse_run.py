"""A run with a sparse encoder that is worth it: chosen on dev, stored, and served as it was evaluated."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from helpers.tiny_sparse import make_synonym_encoder

import llama_index_ace_finetune as ace
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.pipeline.evaluate import evaluate
from llama_index_ace_finetune.pipeline.index import index
from llama_index_ace_finetune.pipeline.settings import RunSettings

SYLLABLES = ("ba", "ke", "lo", "mi", "nu", "po", "ra", "si", "tu", "ve", "wo", "zy")


@pytest.fixture(scope="module")
def synonyms() -> dict[str, str]:
    """Invented words, so that only the sparse encoder knows which of them mean the same."""
    words = [first + middle + last for first in SYLLABLES for middle in SYLLABLES for last in SYLLABLES]
    random.Random(0).shuffle(words)
    return dict(zip(words[:40], words[40:80], strict=True))


@pytest.fixture(scope="module")
def dataset(synonyms: dict[str, str]) -> RetrievalDataset:
    """60 memories of four words, and two queries each of synonyms of three of them."""
    draw = random.Random(1)
    memories, queries, judgements = {}, {}, {}
    for number in range(60):
        words, memory = draw.sample(list(synonyms), 4), f"m{number:02}"
        memories[memory] = Memory(memory, " ".join(synonyms[word] for word in words))
        for part in "ab":
            query = f"q{number:02}{part}"
            queries[query] = Query(query, " ".join(draw.sample(words, 3)))
            judgements[query] = {memory: 1.0}
    return RetrievalDataset(name="synonyms", memories=memories, queries=queries, judgements=judgements)


@pytest.mark.slow
def test_evaluation_equals_serving(
    dataset: RetrievalDataset, synonyms: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_synonym_encoder(tmp_path, synonyms)
    monkeypatch.chdir(tmp_path)
    made = ace.run(
        RunSettings(
            data=dataset,
            out=tmp_path / "run",
            sparse_encoder="synonyms",
            split=ace.SplitSettings(train=0.2, dev=0.5, test=0.3),
            training=ace.TrainingConfig(mode="linear", device="cpu", precision="float32"),
        )
    )
    serving = made.report["serving"]
    assert set(serving["fusion"]["weights"]) == {"dense", "sparse"}
    assert serving["sparse_encoder"]["name"] == str(tmp_path / "synonyms")
    assert made.folder.read_manifest()["sparse_encoder"] == "synonyms"
    assert {file.name for file in (made.folder.index / "sparse").iterdir()} >= {"meta.json", "weights.npy"}
    monkeypatch.chdir("/")

    again = evaluate(
        dataset,
        made.folder.model,
        sparse_encoder=str(tmp_path / "synonyms"),
        device="cpu",
        precision="float32",
    )
    assert again.report["serving"] == serving
    data, system = again.evaluation.data, again.evaluation.system(serving["system"])
    expected = {
        query: [data.corpus_ids[row] for row in rows if row >= 0][:10]
        for query, rows in zip(data.queries, system.rankings, strict=True)
    }
    for rebuilt in (False, True):
        if rebuilt:
            index(dataset, made.folder.model, replace=True, device="cpu", precision="float32")
        retriever = ace.FineTunedHybridRetriever.from_run(made.folder.path)
        try:
            found = {query: [hit.node.node_id for hit in retriever.retrieve(query)] for query in expected}
            assert found == expected
            assert not retriever.fallbacks
        finally:
            retriever.close()
