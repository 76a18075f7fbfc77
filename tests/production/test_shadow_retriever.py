from __future__ import annotations

import threading

import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle
from production.fixed_retriever import FixedRetriever

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.rank_biased_overlap import rank_biased_overlap
from llama_index_ace_finetune.production.comparison import COMPARISON
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.shadow_retriever import SHADOW_OF, ShadowRetriever


class Held(FixedRetriever):
    """Searches until it is released."""

    def __init__(self, ids: str) -> None:
        super().__init__(ids)
        self.release, self.started = threading.Event(), threading.Semaphore(0)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        self.started.release()
        assert self.release.wait(60)
        return super()._retrieve(query_bundle)


async def test_only_disagreements_are_stored_with_their_overlap(log: QueryLog) -> None:
    a, same = FixedRetriever("xyz"), FixedRetriever("xyz")
    agreeing = ShadowRetriever(a, same, query_log=log, name="same")
    assert [one.node.node_id for one in agreeing.retrieve("a query")] == ["x", "y", "z"]
    assert agreeing.wait()
    assert same.calls == 1
    assert len(list(log.records())) == 1

    differing = ShadowRetriever(a, FixedRetriever("yxw"), query_log=log)
    found = await differing.aretrieve("another query")
    assert [one.node.node_id for one in found] == ["x", "y", "z"]
    assert differing.wait()
    served, unseen = list(log.records())[1:]
    assert served.query_id == found[0].query_id  # type: ignore[attr-defined]
    assert unseen.extra[COMPARISON][SHADOW_OF] == served.query_id
    assert unseen.extra[COMPARISON]["overlap"] == pytest.approx(rank_biased_overlap("xyz", "yxw"))
    assert [hit.node_id for hit in unseen.hits] == ["y", "x", "w"]


def test_similar_rankings_can_be_left_out(log: QueryLog) -> None:
    retriever = ShadowRetriever(FixedRetriever("xyz"), FixedRetriever("xzy"), query_log=log, max_overlap=0.5)
    retriever.retrieve("a query")
    assert retriever.wait()
    assert len(list(log.records())) == 1


def test_query_is_not_delayed_and_the_limit_holds(log: QueryLog) -> None:
    b = Held("w")
    retriever = ShadowRetriever(FixedRetriever("x"), b, query_log=log, limit=2)
    for _ in range(5):  # each is served while B is held
        assert [one.node.node_id for one in retriever.retrieve("a query")] == ["x"]
    assert retriever.skipped == 3
    assert all(b.started.acquire(timeout=60) for _ in range(2))
    assert not b.started.acquire(timeout=0.01)
    assert not retriever.wait(timeout=0.01)
    b.release.set()
    assert retriever.wait(timeout=60)
    assert b.calls == 2
    shadowed = [record.extra[COMPARISON].get("shadowed") for record in log.records()]
    assert shadowed.count(True) == 2
    assert shadowed.count(False) == 3


def test_failure_of_b_is_counted_and_that_of_a_raised(log: QueryLog) -> None:
    retriever = ShadowRetriever(FixedRetriever("x"), FixedRetriever("", failure=RuntimeError("no")), query_log=log)
    assert len(retriever.retrieve("a query")) == 1
    assert retriever.wait()
    assert retriever.failures == {"b": 1}
    assert [record.extra[COMPARISON].get("failed") for record in log.records()] == [None, "b"]
    broken = ShadowRetriever(FixedRetriever("", failure=KeyError("x")), FixedRetriever("y"), query_log=log)
    with pytest.raises(KeyError):
        broken.retrieve("a query")


def test_empty_results_of_a_are_a_disagreement(log: QueryLog) -> None:
    retriever = ShadowRetriever(FixedRetriever(""), FixedRetriever("y"), query_log=log)
    assert retriever.retrieve("a query") == []
    assert retriever.wait()
    assert [record.extra[COMPARISON].get("overlap") for record in log.records()] == [None, 0.0]


def test_bad_input(log: QueryLog) -> None:
    for options in ({"limit": 0}, {"max_overlap": 0.0}, {"max_overlap": 1.5}):
        with pytest.raises(AceFinetuneError):
            ShadowRetriever(FixedRetriever("x"), FixedRetriever("y"), query_log=log, **options)
