from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from production.fixed_retriever import FixedRetriever

from llama_index_ace_finetune.errors import AceFinetuneError, LogError
from llama_index_ace_finetune.production.compared_queries import shadow_queries
from llama_index_ace_finetune.production.comparison import COMPARISON
from llama_index_ace_finetune.production.interleaved_retriever import InterleavedRetriever
from llama_index_ace_finetune.production.live_comparison import compare_live
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import FeedbackRecord, LoggedHit, RetrievalRecord
from llama_index_ace_finetune.production.shadow_retriever import ShadowRetriever
from llama_index_ace_finetune.production.user_split import UserSplit, assign_user

FACTS = {"name": "test", "kind": "interleaved", "a": "id-a", "b": "id-b"}


def served(log: QueryLog, number: int, *, teams: str = "ab", facts: dict[str, Any] | None = None, **fields: Any) -> str:
    """Write a query whose hits "0", "1", ... were drafted by these teams ("-" is none)."""
    hits = tuple(
        LoggedHit(node_id=str(rank), rank=rank + 1, team=None if team == "-" else f"id-{team}")
        for rank, team in enumerate(teams)
    )
    query_id = f"q{number}"
    log.write(
        RetrievalRecord(
            query_id=query_id, time=2e9 + number, query=fields.pop("query", "some words"), hits=hits, seconds=0.01,
            extra={COMPARISON: {**FACTS, **(facts or {})}, **fields.pop("extra", {})}, **fields,
        )
    )  # fmt: skip
    return query_id


def feedback(log: QueryLog, query_id: str, node_id: str, value: float = 1.0, **fields: Any) -> None:
    log.write(FeedbackRecord(query_id=query_id, node_id=node_id, value=value, time=2e9 + 5000, **fields))


def test_credit_by_hand(log: QueryLog) -> None:
    cases: list[tuple[str, Iterable[tuple[str, float, str]], float]] = [
        ("ab", [("1", 1.0, "judgement")], 1),  # b's result is relevant
        ("ab", [("0", 1.0, "use")], -1),  # a's was used
        ("ab", [("0", 1.0, "judgement"), ("1", 0.5, "judgement")], 0),  # one of each
        ("aab", [("0", 1.0, "use"), ("1", 1.0, "use"), ("2", 1.0, "use")], -1),  # two of a's
        ("ab", [("0", -1.0, "judgement")], 1),  # a's is judged not relevant
        ("ab", [("1", 1.0, "use"), ("1", -1.0, "judgement")], -1),  # the judgement counts, not the use
        ("-b", [("0", 1.0, "judgement")], 0),  # both ranked it next
        ("ab", [("unknown", 1.0, "judgement")], 0),
        ("ab", [], 0),
    ]
    for number, (teams, given, _) in enumerate(cases):
        query_id = served(log, number, teams=teams)
        for node_id, value, kind in given:
            feedback(log, query_id, node_id, value, kind=kind)
    feedback(log, "another query", "0")
    found = compare_live(log)
    assert found.credit.queries == len(cases)
    assert found.credit.mean * len(cases) == pytest.approx(sum(credit for *_, credit in cases))
    assert found.wins == {"a": 3, "b": 2}
    assert found.credit.decided == 5
    assert (found.winner, found.may_stop) == (None, False)
    assert found.sentence.startswith("No winner yet: -0.111 credit per query (95% interval -")
    assert "over 9 queries, 5 of them with credit; continue, or stop without a winner." in found.sentence


@pytest.mark.parametrize(("better", "action"), [("b", "publish B"), ("a", "keep A")])
def test_winner_and_when_it_is_known(log: QueryLog, better: str, action: str) -> None:
    for number in range(60):
        feedback(log, served(log, number), "1" if better == "b" else "0")
    found = compare_live(log)
    assert found.winner == better
    assert found.sentence.startswith(f"{better.upper()} is better than {'ab'.replace(better, '').upper()}: ")
    assert found.sentence.endswith(f"you may stop and {action}.")
    times, intervals = zip(*found.series, strict=True)
    assert len(intervals) == 60
    assert [*times] == sorted(times)
    first = next(one.queries for one in intervals if (one.low > 0 if better == "b" else one.high < 0))
    assert 10 < first < 40


def test_queries_without_two_systems_are_left_out_and_reported(log: QueryLog) -> None:
    served(log, 0)
    served(log, 1, facts={"paused": True})
    served(log, 2, facts={"failed": "b"})
    found = compare_live(log)
    assert found.credit.queries == 1
    assert found.left_out == {"paused": 1, "b failed": 1}
    assert any("B failed on 1 queries" in warning for warning in found.warnings)
    assert any("No feedback" in warning for warning in found.warnings)


def test_slices_by_words_and_by_the_text_values_of_records(log: QueryLog) -> None:
    for number in range(60):
        query = "word " * (1 + 5 * (number % 3))
        query_id = served(log, number, query=query, extra={"language": "de" if number % 2 else "en"})
        feedback(log, query_id, "1" if number % 2 else "0")
    found = compare_live(log)
    means = {(one.dimension, one.name): one.credit.mean for one in found.slices}
    assert means["language", "de"] == 1.0
    assert means["language", "en"] == -1.0
    assert len([one for one in found.slices if one.dimension == "words"]) == 3


def test_interleaved_retrievers_end_to_end(log: QueryLog) -> None:
    """Users use the relevant memory, which only B finds."""
    retriever = InterleavedRetriever(FixedRetriever("xyz"), FixedRetriever("wxv"), query_log=log, seed=0)
    for _ in range(25):
        found = retriever.retrieve("a query")
        log.feedback(found[0].query_id, "w", 1.0)  # type: ignore[attr-defined]
    result = compare_live(log)
    assert result.kind == "interleaved"
    assert result.winner == "b"
    assert result.credit.mean == 1.0


def test_identical_systems_have_no_credit(log: QueryLog) -> None:
    retriever = InterleavedRetriever(FixedRetriever("xyz"), FixedRetriever("xyz"), query_log=log, seed=0)
    for _ in range(20):
        log.feedback(retriever.retrieve("a query")[0].query_id, "x", 1.0)  # type: ignore[attr-defined]
    result = compare_live(log)
    assert (result.credit.decided, result.winner) == (0, None)


def test_split_counts_the_first_query_of_each_user(log: QueryLog) -> None:
    split = UserSplit(FixedRetriever("x"), FixedRetriever("y"), name="split", query_log=log)
    coin = random.Random(0)
    users = [f"u{number}" for number in range(60)]
    for user in users:
        for _ in range(2):
            found = split.for_user(user).retrieve("a query")[0]
            likes = 0.95 if assign_user(user, salt="split") == "b" else 0.05
            if coin.random() < likes:
                log.feedback(found.query_id, found.node.node_id, 1.0)  # type: ignore[attr-defined]
    result = compare_live(log)
    assert result.credit.queries == 60
    assert result.credit.mean == pytest.approx(0.9, abs=0.3)
    assert result.winner == "b"
    assert "in the fraction of users with a used result" in result.sentence


def test_shadow_counts_judged_queries(log: QueryLog) -> None:
    retriever = ShadowRetriever(FixedRetriever("xyz"), FixedRetriever("wxy"), query_log=log)
    ids = []
    for _ in range(30):
        ids.append(retriever.retrieve("a query")[0].query_id)  # type: ignore[attr-defined]
        assert retriever.wait()
    for query_id in ids[:20]:
        log.feedback(query_id, "w", 1.0, source="judge")
    result = compare_live(log)
    assert (result.kind, result.differing, result.credit.queries, result.winner) == ("shadow", 30, 20, "b")
    assert result.overlap == pytest.approx(0.6, abs=0.3)
    pairs = shadow_queries(log)
    assert [(a.query_id, [hit.node_id for hit in b.hits]) for a, b, _ in pairs] == [
        (one, ["w", "x", "y"]) for one in ids
    ]


# ------------------------------------------------------------------------------------------------ bad input


def test_log_without_a_comparison_or_with_several(log: QueryLog, record: Any) -> None:
    log.write(record())
    with pytest.raises(LogError, match="has no comparison; serve with an InterleavedRetriever"):
        compare_live(log)
    served(log, 5)
    with pytest.raises(AceFinetuneError, match="no comparison 'other', only 'test'"):
        compare_live(log, name="other")
    served(log, 2, facts={"name": "second"})
    with pytest.raises(AceFinetuneError, match="several comparisons"):
        compare_live(log)
    assert compare_live(log, name="second").credit.queries == 1
    with pytest.raises(AceFinetuneError, match="not one of a ShadowRetriever"):
        shadow_queries(log, "second")


@pytest.mark.parametrize(
    "facts",
    [
        "text", None, [], {}, {"name": 3}, {**FACTS, "kind": "other"}, {**FACTS, "shadow_of": ["q"]},
        {**FACTS, "a": None},
    ],
)  # fmt: skip
def test_damaged_records_are_ignored(log: QueryLog, record: Any, facts: Any) -> None:
    served(log, 1)
    log.write(record(extra={COMPARISON: facts}))
    log.write(record(query_id="q9", extra={COMPARISON: {**FACTS, "shadow_of": "q1", "overlap": float("nan")}}))
    assert compare_live(log).credit.queries == 1


def test_clock_that_is_set_back(log: QueryLog) -> None:
    for number in range(40):
        feedback(log, served(log, -100 * number), "1")
    found = compare_live(log)
    assert found.winner == "b"
    assert len(found.series) == 40


def test_record_twice_and_feedback_twice_count_once(log: QueryLog) -> None:
    for _ in range(2):
        feedback(log, served(log, 0), "1")
    found = compare_live(log)
    assert (found.credit.queries, found.wins["b"]) == (1, 1)
