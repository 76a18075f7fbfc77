from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from llama_index_ace_finetune.datasets.split import split_dataset
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.evaluation.evaluate import Evaluation, evaluate_systems
from llama_index_ace_finetune.evaluation.systems import EvaluationSet
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.fusion import fuse_rankings


@pytest.fixture(scope="module")
def worse(minilm: Encoder) -> Encoder:
    """The base with noise in its weights, in the place of a tuned model."""
    model = copy.deepcopy(minilm.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return Encoder(model, name="worse", fingerprint="worse", settings=minilm.settings)


@pytest.fixture(scope="module")
def parts(small_dataset: RetrievalDataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    split = split_dataset(small_dataset)
    return split.test, split.dev


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="module")
def compared(
    small_dataset: RetrievalDataset,
    parts: tuple[tuple[str, ...], tuple[str, ...]],
    minilm: Encoder,
    worse: Encoder,
    cache: Path,
) -> Evaluation:
    return evaluate_systems(small_dataset, test=parts[0], dev=parts[1], base=minilm, tuned=worse, cache=cache)


def test_every_system_ranks_every_test_query(
    compared: Evaluation, parts: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    assert [system.name for system in compared.systems] == [
        "BM25",
        "base",
        "tuned",
        "hybrid base",
        "hybrid equal",
        "hybrid",
    ]
    assert compared.data.query_ids == parts[0]
    for system in compared.systems:
        assert len(system.rankings) == len(parts[0])
        for values in compared.values[system.name].values():
            assert len(values) == len(parts[0])
            assert ((values >= 0) & (values <= 1)).all()
    assert set(compared.metadata) == set(parts[0])


def test_rankings_are_those_of_the_parts(
    compared: Evaluation, small_dataset: RetrievalDataset, minilm: Encoder
) -> None:
    data = compared.data
    assert data.corpus == tuple(memory.text for memory in small_dataset.answers.values())
    cosines = minilm.encode_queries(data.queries) @ minilm.encode_documents(data.corpus).T
    base = compared.system("base")
    assert base.rankings.tolist() == np.argsort(-cosines, axis=1, kind="stable").tolist()
    right = [max(row[rows]) for row, rows in zip(cosines, data.relevant, strict=True)]
    assert base.cosine == pytest.approx(np.array(right), abs=1e-5)
    lexical = compared.system("BM25").rankings
    expected, _ = BM25Index.build(data.corpus).search_batch(list(data.queries), 100)
    assert [[r for r in row if r >= 0] for row in lexical.tolist()] == [
        [r for r in row if r >= 0] for row in expected.tolist()
    ]
    fused = fuse_rankings([base.rankings, lexical], limit=100)
    assert compared.system("hybrid base").rankings.tolist() == fused.tolist()
    ranks = [row.index(int(rows[0])) + 1 for row, rows in zip(base.rankings.tolist(), data.relevant, strict=True)]
    assert compared.values["base"]["Success@1"].tolist() == [float(rank == 1) for rank in ranks]
    assert compared.mean("base", "MRR@10") == pytest.approx(np.mean([1 / r if r <= 10 else 0 for r in ranks]))


def test_a_worse_model_is_seen_to_be_worse(compared: Evaluation) -> None:
    difference = compared.differences["tuned"]["MRR@10"]
    assert compared.mean("tuned", "MRR@10") < compared.mean("base", "MRR@10")
    assert difference.mean == pytest.approx(compared.mean("tuned", "MRR@10") - compared.mean("base", "MRR@10"))
    assert difference.losses > difference.wins
    assert "base" not in compared.differences


def test_the_same_model_twice_makes_no_difference(
    small_dataset: RetrievalDataset, parts: tuple[tuple[str, ...], tuple[str, ...]], minilm: Encoder, cache: Path
) -> None:
    counted: list[int] = []
    result = evaluate_systems(
        small_dataset, test=parts[0], dev=(), base=minilm, tuned=minilm, cache=cache, progress=counted.append
    )
    difference = result.differences["tuned"]["MRR@10"]
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert difference.ties == len(parts[0])
    assert result.fusion.weights == (0.5, 0.5)
    assert "0 dev queries are too few" in result.fusion.reason
    assert result.system("hybrid").rankings.tolist() == result.system("hybrid equal").rankings.tolist()
    assert sum(counted) == 2 * (len(parts[0]) + len(small_dataset.answers))


def test_without_a_test_query_it_is_told(small_dataset: RetrievalDataset, minilm: Encoder) -> None:
    with pytest.raises(DatasetError, match="there is no held-out query to evaluate on"):
        evaluate_systems(small_dataset, test=(), dev=(), base=minilm, tuned=minilm)


def test_a_copy_of_the_right_text_counts_as_right() -> None:
    texts = {"b": "Restart it", "a": "restart  it", "c": "Wait", "d": "Stop"}
    data = EvaluationSet.of(
        RetrievalDataset(
            name="copies",
            memories={i: Memory(i, text) for i, text in texts.items()},
            queries={"q": Query("q", "how?"), "r": Query("r", "HOW?"), "s": Query("s", "new")},
            judgements={"q": {"b": 1.0}, "r": {"d": 1.0}},
        ),
        ["q", "s"],
    )
    assert data.corpus_ids == ("a", "c", "d")
    assert [rows.tolist() for rows in data.relevant] == [[0, 2], []]
    assert data.groups == ["a", "s"]
