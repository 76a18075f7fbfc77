from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.training.loop.budget import EvaluationCost, StepPlan
from llama_index_ace_finetune.training.model_selection import dev_set as module
from llama_index_ace_finetune.training.model_selection.dev_set import encoding_seconds

COST = EvaluationCost(each=4.0, after=10.0)


def planned(limit: float | None, *, steps: int = 30, evaluation_cost: EvaluationCost = COST) -> StepPlan:
    return StepPlan.within(limit, steps=steps, step_seconds=2.0, evaluate_every=10, evaluation_cost=evaluation_cost)


def figures(plan: StepPlan) -> tuple[int, float, int]:
    return plan.steps, plan.seconds, plan.remine


def test_without_a_budget_all_steps_and_evaluations_are_counted() -> None:
    assert figures(planned(None)) == (30, 30 * 2 + 3 * 4 + 10, 0)
    # The 31st step starts another interval, with an evaluation at its end.
    assert figures(planned(None, steps=31)) == (31, 31 * 2 + 4 * 4 + 10, 0)


def test_sufficient_budget_changes_nothing() -> None:
    assert figures(planned(82.0)) == figures(planned(None))


def test_budget_leaves_time_for_dev_evaluations() -> None:
    # 60 - 10 - 4 = 46 seconds for steps of 2 + 4 / 10: 19, and two evaluations.
    assert figures(planned(60.0)) == (19, 19 * 2 + 2 * 4 + 10, 0)


def test_half_of_a_short_budget_is_spent_on_steps() -> None:
    # 12 - 10 - 4 is below zero; half of 12 allows two steps of 2.4.
    assert figures(planned(12.0)) == (2, 2 * 2 + 4 + 10, 0)
    assert planned(1e-6).steps == 1


def test_remining_is_planned_at_equal_distances_and_within_a_fifth_of_the_budget() -> None:
    cost = EvaluationCost(each=4.0, after=10.0, remining=5.0)

    def plan(limit: float | None, remine: int, steps: int = 30) -> StepPlan:
        return StepPlan.within(
            limit, steps=steps, step_seconds=2.0, evaluate_every=10, evaluation_cost=cost, remine=remine
        )

    assert figures(plan(None, 2)) == (30, 60 + 3 * 4 + 10 + 2 * 5, 2)
    assert plan(None, 2).remine_after == (10, 20)
    assert plan(None, 1, steps=31).remine_after == (15,)
    assert plan(None, 0).remine_after == ()
    # 60 - 10 - 4 - 2 * 5 = 36 seconds for steps of 2.4.
    assert figures(plan(60.0, 3)) == (15, 30 + 2 * 4 + 10 + 2 * 5, 2)
    # A mining takes more than a fifth of 24 seconds.
    assert plan(24.0, 1) == plan(24.0, 0)
    # Too few steps: with one between two minings, the first would not be used.
    assert figures(plan(None, 5, steps=7)) == (7, 14 + 4 + 10 + 2 * 5, 2)
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


def test_steps_slower_than_planned_are_cut_where_the_limit_would_be_exceeded() -> None:
    # 100 steps of 1 s and 20 s of final selection, within 120 s.
    plan = StepPlan.within(
        120.0, steps=100, step_seconds=1.0, evaluate_every=100, evaluation_cost=EvaluationCost(after=20.0)
    )
    assert (plan.steps, plan.limit, plan.last_step) == (100, 120.0, 100)
    assert plan.fitting(50, spent=50.0, slower=1) == 100
    # Twice as slow after 40 steps: 80 s are gone, 40 s go to the selection, so the training ends.
    assert plan.fitting(40, spent=80.0, slower=2) == 41
    # A tenth slower after 50: 120 - 55 - 22 = 43 s are left, for 39 steps of 1.1 s.
    assert plan.fitting(50, spent=55.0, slower=1.1) == 89
    # In the first quarter a tenth is not enough to tell.
    assert plan.fitting(20, spent=22.0, slower=1.1) == 100
    assert plan.fitting(20, spent=40.0, slower=2) == 20 + (120 - 40 - 40) // 2


def test_corrected_plan_is_kept_as_it_is_unless_steps_get_slower_still() -> None:
    plan = StepPlan.within(100.0, steps=100, step_seconds=1.0, evaluate_every=100, evaluation_cost=EvaluationCost())
    shortened = replace(plan, shortened=((50, plan.fitting(50, spent=60.0, slower=1.2)),))
    assert shortened.last_step == 83
    assert shortened.fitting(70, spent=84.0, slower=1.2) == 83
    assert shortened.fitting(70, spent=95.0, slower=1.36) == 73
    assert shortened.remine_after == plan.remine_after


@given(spent=st.floats(0.01, 1e4), slower=st.floats(1e-3, 100), done=st.integers(1, 99))
def test_correction_never_adds_steps_and_always_leaves_one(spent: float, slower: float, done: int) -> None:
    plan = StepPlan.within(100.0, steps=100, step_seconds=1.0, evaluate_every=10, evaluation_cost=EvaluationCost(2, 5))
    done = min(done, plan.steps - 1)
    last = plan.fitting(done, spent=spent, slower=slower)
    assert done < last <= plan.steps
    assert replace(plan, limit=None).fitting(done, spent=spent, slower=slower) == plan.steps
