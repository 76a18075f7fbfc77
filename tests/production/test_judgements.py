from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.production.judgements import HarvestSettings, Judgements, judgements_of, propensity
from llama_index_ace_finetune.production.records import FeedbackRecord, LoggedHit, RetrievalRecord

Make = Callable[..., RetrievalRecord]


def says(query_id: str, node_id: str, value: float = 1.0, kind: str = "judgement", source: str = "user"):
    return FeedbackRecord(query_id=query_id, node_id=node_id, value=value, kind=kind, source=source, time=1e9)


def use(query_id: str, node_id: str, source: str = "click") -> FeedbackRecord:
    return says(query_id, node_id, kind="use", source=source)


def judge(records: list[RetrievalRecord], *given: FeedbackRecord, **options: float) -> Judgements:
    return judgements_of(lambda: records, given, HarvestSettings(**options))


def found(judgements: Judgements) -> list[tuple[str, bool, str]]:
    return [(one.node_id, one.relevant, one.evidence) for one in judgements.found]


def test_explicit_feedback_decides(record: Make) -> None:
    result = judge([record("q1")], says("q1", "a"), says("q1", "b", -0.5), says("q1", "elsewhere"), use("q1", "c"))
    assert found(result) == [("a", True, "judgement"), ("b", False, "judgement"), ("elsewhere", True, "judgement")]
    assert result.counts["too_few_uses"] == 1


def test_contradictory_judgements_are_left_out(record: Make) -> None:
    records = [record("q1", "big uploads"), record("q2", " Big  uploads"), record("q3", "other")]
    result = judge(records, says("q1", "a"), says("q2", "a", -1), says("q3", "a", -1))
    assert [(one.query, one.relevant) for one in result.found] == [("other", False)]
    assert result.counts["contradictory"] == 1
    assert result.samples == {"contradictory": [("big uploads", "a")]}


def test_two_uses_must_agree(record: Make) -> None:
    records = [record("q1"), record("q2")]
    assert found(judge(records[:1], use("q1", "a"))) == []
    assert found(judge(records[:1], use("q1", "a"), use("q1", "a", "citation"))) == [("a", True, "use")]
    assert found(judge(records, use("q1", "a"), use("q2", "a"))) == [("a", True, "use")]
    assert found(judge(records, use("q1", "a"), use("q2", "b"))) == []


def test_rate_of_use_is_corrected_for_rank(record: Make) -> None:
    # Ten searches: "a" is at rank 1 and "e" at rank 5, each used twice. Seen 10 and 10 / 5 = 2 times: rates .2 and 1.
    records = [record(f"q{number}", hits="abcde") for number in range(10)]
    given = [use(query_id, node_id) for query_id in ("q1", "q2") for node_id in "ae"]
    result = judge(records, *given)
    assert found(result) == [("e", True, "use")]
    assert result.counts["low_use_rate"] == 1
    assert found(judge(records, *given, min_use_rate=0.2)) == [("a", True, "use"), ("e", True, "use")]
    assert found(judge(records, *given, position_bias=0)) == []  # both at .2
    assert found(judge(records, *given, position_bias=0.5)) == []  # 2 / (10 / sqrt 5) = .447


def test_use_of_a_memory_that_was_not_shown(record: Make) -> None:
    records = [record("q1"), record("q2"), record("q3")]
    assert found(judge(records, use("q1", "z"), use("q2", "z"))) == [("z", True, "use")]


def test_feedback_of_deleted_queries_is_counted(record: Make) -> None:
    result = judge([record("q1")], says("gone", "a"), says("q1", "a"))
    assert (result.counts["feedback"], result.counts["feedback_of_deleted_query"]) == (2, 1)
    assert result.counts["searches"] == 1


@pytest.mark.parametrize(
    "options", [{"min_uses": 0}, {"min_use_rate": 0}, {"min_use_rate": 1.1}, {"position_bias": -1}]
)
def test_settings_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(AceFinetuneError, match=next(iter(options))):
        HarvestSettings(**options)


def test_propensity() -> None:
    assert [propensity(rank, 1.0) for rank in (1, 2, 4)] == [1.0, 0.5, 0.25]
    assert propensity(9, 0.5) == pytest.approx(1 / 3)
    assert propensity(9, 0.0) == 1.0


@settings(max_examples=60)
@given(st.data())
def test_order_of_feedback_and_of_searches_does_not_matter(data: st.DataObject) -> None:
    records = [
        RetrievalRecord(
            query_id=f"q{number}",
            time=0,
            query=data.draw(st.sampled_from(["one", "two"])),
            seconds=0,
            hits=tuple(LoggedHit(node_id=n, rank=r) for r, n in enumerate(data.draw(st.permutations("abc")), 1)),
        )
        for number in range(5)
    ]
    each = st.tuples(
        st.sampled_from(["q0", "q1", "q2", "q3", "q4"]), st.sampled_from("abc"), st.sampled_from([1, -1, "use"])
    )
    events = [
        use(query_id, node_id) if what == "use" else says(query_id, node_id, what)
        for query_id, node_id, what in data.draw(st.lists(each, max_size=12, unique=True))
    ]
    first = judge(records, *events)
    again = judge(data.draw(st.permutations(records)), *data.draw(st.permutations(events)))
    key = {(one.query, one.node_id, one.relevant, one.evidence) for one in first.found}
    assert key == {(one.query, one.node_id, one.relevant, one.evidence) for one in again.found}
    assert first.counts == again.counts
