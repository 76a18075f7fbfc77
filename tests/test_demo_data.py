"""The demo data is as its README says: hand-written, confusable, and neither trivial nor impossible for BM25."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.ranking.bm25 import BM25Index

NGRAM = 4


@pytest.fixture(scope="module")
def demo(demo_suite: Path) -> RetrievalDataset:
    return read_dataset(demo_suite)


def ngrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)}


def test_sizes(demo: RetrievalDataset) -> None:
    assert len(demo.answers) == len(demo.memories) == 240
    assert len(demo.queries) == len(set(demo.query_groups.values())) == 1200
    assert not demo.ledger.counts


def test_no_query_shares_a_four_gram_with_its_memory(demo: RetrievalDataset) -> None:
    for query_id, query in demo.queries.items():
        (answer,) = demo.relevant(query_id)
        assert ngrams(query.text).isdisjoint(ngrams(demo.memories[answer].text)), query.text


def test_bm25_success_at_1_is_moderate(demo: RetrievalDataset) -> None:
    ids = list(demo.answers)
    index = BM25Index.build([memory.text for memory in demo.answers.values()])
    first, _ = index.search_batch([query.text for query in demo.queries.values()], 1)
    found = [row >= 0 and ids[row] in demo.relevant(i) for row, i in zip(first[:, 0], demo.queries, strict=True)]
    assert 0.35 < np.mean(found) < 0.65


def test_bm25_success_decreases_with_difficulty(demo: RetrievalDataset) -> None:
    ids = {identifier: row for row, identifier in enumerate(demo.answers)}
    index = BM25Index.build([memory.text for memory in demo.answers.values()])
    ranked, _ = index.search_batch([query.text for query in demo.queries.values()], 5)
    hits: dict[str, list[bool]] = {"easy": [], "medium": [], "hard": []}
    for row, (query_id, query) in zip(ranked, demo.queries.items(), strict=True):
        (answer,) = demo.relevant(query_id)
        hits[query.metadata["difficulty"]].append(ids[answer] in row)
    easy, medium, hard = (float(np.mean(hits[name])) for name in ("easy", "medium", "hard"))
    assert easy > medium > hard
    assert min(map(len, hits.values())) > 200
