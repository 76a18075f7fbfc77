from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llama_index_ace_finetune import aevaluate_retriever, evaluate_retriever
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.evaluation.metrics.measures import MRR, Recall

TEXTS = {"a": "restart it", "b": "Restart  it", "c": "wait", "d": "stop"}


@pytest.fixture
def dataset() -> RetrievalDataset:
    """The relevant documents are a (and its copy b), c, c and d, and d; the last query is not judged."""
    relevant = {"q0": ["a"], "q1": ["c"], "q2": ["c", "d"], "q3": ["d"]}
    return RetrievalDataset(
        name="small",
        memories={i: Memory(i, text) for i, text in TEXTS.items()},
        queries={f"q{n}": Query(f"q{n}", f"query {n}") for n in range(5)},
        judgements={query: dict.fromkeys(answers, 1.0) for query, answers in relevant.items()},
    )


class Fixed(BaseRetriever):
    """Gives fixed ids per query text, slower ones first, and counts what runs at the same time."""

    def __init__(self, hits: Mapping[str, Sequence[str]], *, score: float | None = 0.5) -> None:
        self.hits, self.score = hits, score
        self.running = self.most = self.asked = 0
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        self.asked += 1
        ids = self.hits[query_bundle.query_str]
        return [NodeWithScore(node=TextNode(id_=f"node-{i}", text=TEXTS.get(i, "?")), score=self.score) for i in ids]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.02 / (1 + self.asked))
        self.running -= 1
        return self._retrieve(query_bundle)


HITS = {
    "query 0": ["b"],  # the copy is relevant: rank 1
    "query 1": ["?", "d", "d", "c"],  # an unknown hit keeps its rank, a repeated one does not: rank 3
    "query 2": ["a", "d"],  # one of two: rank 2
    "query 3": [],
}


def test_evaluation_by_hand(dataset: RetrievalDataset) -> None:
    found = evaluate_retriever(Fixed(HITS), dataset, measures=[MRR(10), Recall(10)])
    assert found.query_ids == ("q0", "q1", "q2", "q3")
    assert found.without_answer == ("q4",)
    assert found.values["MRR@10"].tolist() == pytest.approx([1, 1 / 3, 1 / 2, 0])
    assert found.values["Recall@10"].tolist() == [1, 1, 0.5, 0]
    interval = found.means["Recall@10"]
    assert interval.mean == 0.625
    assert 0 <= interval.low < 0.625 < interval.high <= 1
    assert found.latency is not None
    assert found.latency.calls == 4
    assert str(found).startswith("Fixed on 4 queries: MRR@10 0.458 [")


@pytest.mark.parametrize("score", [None, float("nan")])
def test_order_counts_not_scores(dataset: RetrievalDataset, score: float | None) -> None:
    found = evaluate_retriever(Fixed(HITS, score=score), dataset)
    assert found.values["MRR@10"].tolist() == pytest.approx([1, 1 / 3, 1 / 2, 0])


async def test_async_equals_sync_with_limited_concurrency(dataset: RetrievalDataset) -> None:
    expected = evaluate_retriever(Fixed(HITS), dataset)
    for concurrency, most in ((1, 1), (3, 3), (100, 4)):
        retriever = Fixed(HITS)
        found = await aevaluate_retriever(retriever, dataset, concurrency=concurrency)
        assert retriever.most == most
        assert retriever.asked == 4
        for name, value in expected.values.items():
            assert np.array_equal(found.values[name], value)


async def test_retriever_failure_names_the_query_and_stops(dataset: RetrievalDataset) -> None:
    hits = {text: found for text, found in HITS.items() if text != "query 1"}
    message = "The retriever Fixed failed for the query 'query 1' .*; fix it, or leave that query out"
    with pytest.raises(AceFinetuneError, match=message):
        evaluate_retriever(Fixed(hits), dataset)
    retriever = Fixed(hits)
    with pytest.raises(AceFinetuneError, match=message):
        await aevaluate_retriever(retriever, dataset, concurrency=1)
    assert retriever.asked == 2
    assert len(evaluate_retriever(Fixed(hits), dataset, query_ids=["q0", "q2"]).query_ids) == 2


async def test_invalid_queries_and_concurrency_are_refused(dataset: RetrievalDataset) -> None:
    with pytest.raises(DatasetError, match="there is no query 'zz'"):
        evaluate_retriever(Fixed(HITS), dataset, query_ids=["zz"])
    with pytest.raises(DatasetError, match="none of the queries has a relevant document"):
        evaluate_retriever(Fixed(HITS), dataset, query_ids=["q4"])
    with pytest.raises(AceFinetuneError, match="The concurrency is 0"):
        await aevaluate_retriever(Fixed(HITS), dataset, concurrency=0)


def test_measures_by_name(dataset: RetrievalDataset) -> None:
    hits = Fixed({f"query {n}": ["a", "c"] for n in range(5)})
    by_name = evaluate_retriever(hits, dataset, measures=["mrr@5", Recall(2)])
    by_value = evaluate_retriever(hits, dataset, measures=[MRR(5), Recall(2)])
    assert list(by_name.values) == ["MRR@5", "Recall@2"]
    assert all((by_name.values[name] == by_value.values[name]).all() for name in by_value.values)
    asked = hits.asked
    with pytest.raises(AceFinetuneError, match="There is no measure 'precision@5'"):
        evaluate_retriever(hits, dataset, measures=["precision@5"])
    assert hits.asked == asked
