from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.training.loop.budget import EvaluationCost, StepPlan
from llama_index_ace_finetune.training.model_selection import dev_set as module
from llama_index_ace_finetune.training.model_selection.dev_set import encoding_seconds

COST = EvaluationCost(each=4.0, after=10.0)


def planned(limit: float | None, *, steps: int = 30, evaluation_cost: EvaluationCost = COST) -> StepPlan:
    return StepPlan.within(limit, steps=steps, step_seconds=2.0, evaluate_every=10, evaluation_cost=evaluation_cost)


def test_without_a_budget_all_steps_and_evaluations_are_counted() -> None:
    assert planned(None) == StepPlan(30, 30 * 2 + 3 * 4 + 10)
    # The 31st step starts another interval, with an evaluation at its end.
    assert planned(None, steps=31) == StepPlan(31, 31 * 2 + 4 * 4 + 10)


def test_sufficient_budget_changes_nothing() -> None:
    assert planned(82.0) == planned(None)


def test_budget_leaves_time_for_dev_evaluations() -> None:
    # 60 - 10 - 4 = 46 seconds for steps of 2 + 4 / 10: 19, and two evaluations.
    assert planned(60.0) == StepPlan(19, 19 * 2 + 2 * 4 + 10)


def test_half_of_a_short_budget_is_spent_on_steps() -> None:
    # 12 - 10 - 4 is below zero; half of 12 allows two steps of 2.4.
    assert planned(12.0) == StepPlan(2, 2 * 2 + 4 + 10)
    assert planned(1e-6).steps == 1


def test_remining_is_planned_at_equal_distances_and_within_a_fifth_of_the_budget() -> None:
    cost = EvaluationCost(each=4.0, after=10.0, remining=5.0)

    def plan(limit: float | None, remine: int, steps: int = 30) -> StepPlan:
        return StepPlan.within(
            limit, steps=steps, step_seconds=2.0, evaluate_every=10, evaluation_cost=cost, remine=remine
        )

    assert plan(None, 2) == StepPlan(30, 60 + 3 * 4 + 10 + 2 * 5, 2)
    assert plan(None, 2).remine_after == (10, 20)
    assert plan(None, 1, steps=31).remine_after == (15,)
    assert plan(None, 0).remine_after == ()
    # 60 - 10 - 4 - 2 * 5 = 36 seconds for steps of 2.4.
    assert plan(60.0, 3) == StepPlan(15, 30 + 2 * 4 + 10 + 2 * 5, 2)
    # A mining takes more than a fifth of 24 seconds.
    assert plan(24.0, 1) == plan(24.0, 0)
    # Too few steps: with one between two minings, the first would not be used.
    assert plan(None, 5, steps=7) == StepPlan(7, 14 + 4 + 10 + 2 * 5, 2)
    assert plan(None, 5, steps=7).remine_after == (2, 4)


@given(
    limit=st.floats(0.001, 1e4),
    steps=st.integers(1, 1000),
    step_seconds=st.floats(0.001, 100),
    evaluate_every=st.integers(1, 300),
    each=st.floats(0, 100),
    after=st.floats(0, 1000),
)
def test_plan_stays_within_the_budget_if_evaluations_need_at_most_half(
    limit: float, steps: int, step_seconds: float, evaluate_every: int, each: float, after: float
) -> None:
    plan = StepPlan.within(
        limit,
        steps=steps,
        step_seconds=step_seconds,
        evaluate_every=evaluate_every,
        evaluation_cost=EvaluationCost(each, after),
    )
    assert 1 <= plan.steps <= steps
    if after + each <= limit / 2 and plan.steps > 1:
        assert plan.seconds <= limit * (1 + 1e-9)
    if plan.seconds > limit and plan.steps > 1:
        assert plan.steps * step_seconds <= limit / 2 * (1 + 1e-9)
    assert plan.seconds == pytest.approx(
        plan.steps * step_seconds + math.ceil(plan.steps / evaluate_every) * each + after
    )


@pytest.mark.parametrize(("count", "encoded"), [(0, 0), (3, 3), (128, 128), (300, 128), (1280, 128)])
def test_encoding_seconds_are_extrapolated_from_a_sample(
    count: int, encoded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    encoded_texts: list[str] = []

    def encode(texts: list[str]) -> None:
        encoded_texts.extend(texts)
        clock[0] += 0.5 * len(texts)

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    texts = [f"text {number}" for number in range(count)]
    assert encoding_seconds(encode, texts) == 0.5 * count
    assert len(encoded_texts) == encoded
    if count == 1280:
        assert encoded_texts[-1] == "text 1270"  # sampled evenly
