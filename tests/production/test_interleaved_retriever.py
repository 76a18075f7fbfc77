from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers.small_stores import node
from helpers.words_embedding import words_retriever
from llama_index.core.schema import NodeWithScore, QueryBundle
from production.fixed_retriever import FixedRetriever

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.production.comparison import COMPARISON
from llama_index_ace_finetune.production.interleaved_retriever import InterleavedRetriever
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory


def teams(results: list[NodeWithScore], retriever: InterleavedRetriever) -> list[tuple[str, str | None]]:
    names = {None: None, **{team_id: team for team, team_id in retriever.comparison.ids.items()}}
    return [(result.node.node_id, names[result.team]) for result in results]  # type: ignore[attr-defined]


async def both_ways(retriever: InterleavedRetriever) -> list[list[NodeWithScore]]:
    return [retriever.retrieve("a query"), await retriever.aretrieve("a query")]


async def test_results_are_drafted_and_carry_an_opaque_team() -> None:
    retriever = InterleavedRetriever(FixedRetriever("xyz"), FixedRetriever("xwv"), seed=1)
    for found in await both_ways(retriever):
        drafted = teams(found, retriever)
        assert drafted[0] == ("x", None)
        assert {*drafted[1:]} == {("y", "a"), ("w", "b")}
    assert {len(team_id) for team_id in retriever.comparison.ids.values()} == {12}
    assert InterleavedRetriever(FixedRetriever("x"), FixedRetriever("y")).comparison.ids == retriever.comparison.ids
    other = InterleavedRetriever(FixedRetriever("x"), FixedRetriever("y"), name="other").comparison.ids
    assert not {*other.values()} & {*retriever.comparison.ids.values()}


def test_same_query_is_tossed_again() -> None:
    retriever = InterleavedRetriever(FixedRetriever("x"), FixedRetriever("y"), seed=0, similarity_top_k=1)
    first = [retriever.retrieve("a query")[0].node.node_id for _ in range(100)]
    assert 30 < first.count("x") < 70
    again = InterleavedRetriever(FixedRetriever("x"), FixedRetriever("y"), seed=0, similarity_top_k=1)
    assert [again.retrieve("a query")[0].node.node_id for _ in range(100)] == first


async def test_both_search_at_once() -> None:
    retriever = InterleavedRetriever(FixedRetriever("x", seconds=0.2), FixedRetriever("y", seconds=0.2))
    start = time.perf_counter()
    retriever.retrieve("a query")
    assert time.perf_counter() - start < 0.35


async def test_one_side_failing_is_visible_and_the_other_serves(
    log: QueryLog, caplog: pytest.LogCaptureFixture
) -> None:
    retriever = InterleavedRetriever(
        FixedRetriever("xy"), FixedRetriever("z", failure=RuntimeError("out of order")), query_log=log
    )
    for found in await both_ways(retriever):
        assert teams(found, retriever) == [("x", None), ("y", None)]
    assert retriever.failures == {"b": 2}
    assert "system B of the comparison 'comparison' failed: out of order" in caplog.text
    assert [record.extra[COMPARISON]["failed"] for record in log.records()] == ["b", "b"]
    assert {record.team for record in log.records()} == {retriever.comparison.ids["a"]}


async def test_side_that_takes_too_long_has_failed() -> None:
    retriever = InterleavedRetriever(FixedRetriever("x", seconds=0.5), FixedRetriever("y"), timeout=0.1)
    start = time.perf_counter()
    assert teams(retriever.retrieve("a query"), retriever) == [("y", None)]
    assert time.perf_counter() - start < 0.4
    assert retriever.failures == {"a": 1}


async def test_error_of_a_is_raised_if_both_fail() -> None:
    retriever = InterleavedRetriever(
        FixedRetriever("", failure=KeyError("a")), FixedRetriever("", failure=OSError("b"))
    )
    with pytest.raises(KeyError, match="a"):
        retriever.retrieve("a query")
    with pytest.raises(KeyError, match="a"):
        await retriever.aretrieve("a query")


async def test_paused_serves_a_only(log: QueryLog) -> None:
    a, b = FixedRetriever("xy"), FixedRetriever("z")
    retriever = InterleavedRetriever(a, b, paused=True, query_log=log)
    for found in await both_ways(retriever):
        assert teams(found, retriever) == [("x", None), ("y", None)]
    assert b.calls == 0
    assert [record.extra[COMPARISON]["paused"] for record in log.records()] == [True, True]
    retriever.paused = False
    assert len(retriever.retrieve("a query")) == 2
    assert b.calls == 1


@pytest.mark.parametrize(
    ("a", "b", "expected"), [("xyzw", "xy", 4), ("", "xy", 2), ("", "", 0), ("xx", "y", 1), ("xyz", "xyz", 3)]
)
async def test_lists_of_any_length(a: str, b: str, expected: int) -> None:
    retriever = InterleavedRetriever(FixedRetriever(a), FixedRetriever(b))
    for found in await both_ways(retriever):
        assert len(found) == len({one.node.node_id for one in found}) == min(expected, len({*a, *b}))


def test_results_of_our_retriever_stay_retrieved_memories(log: QueryLog) -> None:
    nodes = [node("uploads", "retry big uploads"), node("mails", "send mails by a queue")]
    ours = words_retriever(nodes)
    retriever = InterleavedRetriever(FixedRetriever("x"), ours, query_log=log)
    found = retriever.retrieve("big uploads")
    memory = next(one for one in found if isinstance(one, RetrievedMemory))
    assert memory.team == retriever.comparison.ids["b"]
    assert memory.served_by == "finetuned"
    [record] = log.records()
    assert {one.query_id for one in found} == {record.query_id}  # type: ignore[attr-defined]
    assert [hit.team for hit in record.hits] == [one.team for one in found]  # type: ignore[attr-defined]


def test_a_fallback_of_either_system_is_logged(log: QueryLog) -> None:
    nodes = [node("uploads", "retry big uploads"), node("mails", "send mails by a queue")]
    a = words_retriever(nodes, mode="sparse")
    b = words_retriever(nodes, embed_model=None)
    for seed in range(4):  # whoever goes first
        InterleavedRetriever(a, b, query_log=log, seed=seed).retrieve("big uploads")
    assert [record.served_by for record in log.records()] == ["baseline"] * 4


def test_query_bundle_of_the_caller_is_unchanged() -> None:
    bundle = QueryBundle("a query")
    InterleavedRetriever(FixedRetriever("x"), FixedRetriever("y")).retrieve(bundle)
    assert bundle.embedding is None


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(AceFinetuneError, match="system B is a str"):
        InterleavedRetriever(FixedRetriever("x"), "y")  # type: ignore[arg-type]
    for options in ({"similarity_top_k": 0}, {"timeout": 0}, {"name": " "}):
        with pytest.raises(AceFinetuneError):
            InterleavedRetriever(FixedRetriever("x"), FixedRetriever("y"), **options)
