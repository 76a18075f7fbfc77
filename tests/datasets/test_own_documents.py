"""If every query is a document under the same id, a query's own document is never ranked for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dataset_files as files
import numpy as np
import pytest
import torch

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.statistics import inspect_dataset
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.systems import EncodedSet, EvaluationSet, bm25_system, dense_system
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.training_data_generator import generate_training_data
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.losses.full_corpus import PADDING, full_corpus_loss
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet

_TOPICS = (
    "bicycle lanes", "paper books", "quiet trams", "school gardens", "open offices", "ferry lines", "wind parks",
    "night markets", "public baths", "cargo bikes", "roof farms", "toll bridges",
)  # fmt: skip


def _parts(title: str = "") -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Claims and replies: each claim is a query and a document, its reply shares fewer words with it."""
    corpus, queries, qrels = [], [], "query-id\tcorpus-id\tscore\n"
    for number, topic in enumerate(_TOPICS):
        claim = f"We need {topic} because {topic} save money and {topic} please the whole town in year {number}."
        reply = f"Nobody in the town was pleased by {topic}; the cost went up in year {number}."
        corpus += [
            {"_id": f"{number}-pro", "title": title, "text": claim},
            {"_id": f"{number}-con", "title": "", "text": reply},
        ]
        queries.append({"_id": f"{number}-pro", "text": claim})
        qrels += f"{number}-pro\t{number}-con\t1\n"
    return corpus, queries, qrels


@pytest.fixture(params=["beir", "titles", "qa", "judged itself"])
def claims(request: pytest.FixtureRequest, tmp_path: Path) -> RetrievalDataset:
    corpus, queries, qrels = _parts("A claim" if request.param == "titles" else "")
    if request.param == "judged itself":
        qrels += "".join(f"{query['_id']}\t{query['_id']}\t1\n" for query in queries)
    if request.param != "qa":
        return read_dataset(files.write_beir(tmp_path / "set", corpus, queries, qrels))
    value = {
        "corpus": {document["_id"]: document["text"] for document in corpus},
        "queries": {query["_id"]: query["text"] for query in queries},
        "relevant_docs": {query["_id"]: [query["_id"].replace("pro", "con")] for query in queries},
    }
    return read_dataset(files.write_json(tmp_path / "qa.json", value))


def test_own_documents_are_noted_once_and_bm25_finds_the_reply(claims: RetrievalDataset) -> None:
    assert claims.ledger.counts["own_document_left_out"] == 1
    statistics = inspect_dataset(claims)
    assert statistics.bm25.recall_at_1 == 1.0
    assert statistics.ceiling.recall_at_1 == 1.0
    assert sum("own memory is left out of its ranking" in line for line in statistics.lines()) == 1


def test_systems_do_not_rank_own_documents(claims: RetrievalDataset) -> None:
    data = EvaluationSet.of(claims, sorted(claims.queries))
    assert data.own is not None
    vectors = np.eye(len(data.corpus), dtype=np.float32)
    encoded = EncodedSet(model="exact", queries=vectors[data.own], corpus=vectors)
    for system in (bm25_system(data, depth=5), dense_system(data, encoded, name="dense", depth=5)):
        assert system.rankings.shape[1] == 5
        assert not (system.rankings == data.own[:, None]).any()
    assert bm25_system(data).rankings[:, 0].tolist() == [int(rows[0]) for rows in data.relevant]


@pytest.mark.parametrize(
    "change",
    [
        lambda corpus, queries: queries.append({"_id": "new", "text": "What of all this?"}),
        lambda corpus, queries: [document.update(text=f"Note {document['_id']}") for document in corpus],
        lambda corpus, queries: [query.update(text="in year") for query in queries],
    ],
)
def test_ids_equal_by_chance_are_not_own_documents(tmp_path: Path, change: Any) -> None:
    corpus, queries, qrels = _parts()
    change(corpus, queries)
    dataset = read_dataset(files.write_beir(tmp_path / "set", corpus, queries, qrels))
    assert not dataset.own_documents
    assert EvaluationSet.of(dataset, sorted(dataset.queries)).own is None


def test_own_document_that_is_the_only_positive_is_kept(tmp_path: Path) -> None:
    corpus, queries, _ = _parts()
    qrels = "".join(f"{query['_id']}\t{query['_id']}\t1\n" for query in queries)
    dataset = read_dataset(files.write_beir(tmp_path / "set", corpus, queries, qrels))
    assert not dataset.own_documents


def test_mining_and_training_ignore_own_documents(tmp_path: Path, minilm: Encoder) -> None:
    corpus, queries, qrels = _parts()
    dataset = read_dataset(files.write_beir(tmp_path / "set", corpus, queries, qrels))
    loose = MiningSettings(relative_margin=None)
    data = generate_training_data(
        dataset, split_dataset(dataset), HardNegativeMiner(encoder=minilm, settings=loose), num_negatives=5
    )
    data.save(tmp_path / "training_data.json")
    read = TrainingData.load(tmp_path / "training_data.json")
    assert read.examples == data.examples
    assert json.loads((tmp_path / "training_data.json").read_text())["examples"][0]["own_id"].endswith("-pro")
    assert any(example.negatives for example in read.examples)
    for example in read.examples:
        assert example.own_id == example.query_id
        assert example.query_id not in example.negative_ids
    examples = index_examples(read, read.examples)
    vectors = np.eye(len(examples.corpus), dtype=np.float32)
    assert examples.own is not None
    rankings = DevSet(examples).rank(vectors[examples.own], vectors).rankings
    assert not (rankings == examples.own[:, None]).any()


def test_loss_ignores_own_documents() -> None:
    queries = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    documents = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    right, own = torch.tensor([[0], [1], [2]]), torch.tensor([5, PADDING, 4])
    moved = queries.clone().requires_grad_()
    loss = full_corpus_loss(moved, documents, right, temperature=0.1, own_rows=own)
    loss.backward()
    expected = 0.0
    for number in range(3):
        kept = [row for row in range(6) if row != int(own[number])]
        query = queries[number : number + 1].clone().requires_grad_()
        single = full_corpus_loss(query, documents[kept], right[number : number + 1], temperature=0.1)
        single.backward()
        expected += float(single) / 3
        assert moved.grad is not None
        assert query.grad is not None
        assert torch.allclose(moved.grad[number], query.grad[0] / 3, atol=1e-6)
    assert float(loss) == pytest.approx(expected)
