from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.training.data.batches import MASKED, POSITIVE, BatchCollator
from llama_index_ace_finetune.training.data.clustered_batches import ClusteredBatches
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.data.task_batches import TaskBatches, sampling_probabilities
from llama_index_ace_finetune.training.data.task_collator import TaskCollator


def test_probabilities_by_hand() -> None:
    # T = 2: square roots of 100, 400 and 2500 are 10, 20 and 50.
    assert sampling_probabilities([100, 400, 2500], 2).tolist() == pytest.approx([10 / 80, 20 / 80, 50 / 80])
    assert sampling_probabilities([100, 300], 1).tolist() == pytest.approx([0.25, 0.75])
    # T = 3: cube roots of 8 and 1000 are 2 and 10.
    assert sampling_probabilities([8, 1000], 3).tolist() == pytest.approx([1 / 6, 5 / 6])
    assert sampling_probabilities([1, 10**9], 1e9).tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    assert np.isfinite(sampling_probabilities([1, 10**9], 0.01)).all()


def batches_of(sizes: list[int], *, batch: int, temperature: float, seed: int = 0) -> TaskBatches:
    tasks = [
        ClusteredBatches(np.empty((size, 0), np.float32), np.arange(size), batch_size=batch, cluster_size=1, seed=seed)
        for size in sizes
    ]
    return TaskBatches(tasks, sizes, temperature=temperature, seed=seed)


def epoch_of(batches: TaskBatches, epoch: int) -> list[list[int]]:
    batches.set_epoch(epoch)
    return list(batches)


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.integers(1, 16),
    st.floats(0.5, 5),
    st.integers(0, 5),
)
def test_no_batch_mixes_tasks_and_the_main_one_is_whole(
    sizes: list[int], batch: int, temperature: float, epoch: int
) -> None:
    batches = batches_of(sizes, batch=batch, temperature=temperature)
    found = epoch_of(batches, epoch)
    assert len(found) == len(batches)
    ends = np.cumsum(sizes)
    tasks = [{int(np.searchsorted(ends, number, side="right")) for number in rows} for rows in found]
    assert all(len(task) == 1 for task in tasks)
    assert all(0 < len(rows) == len(set(rows)) <= batch for rows in found)
    main = [number for rows in found for number in rows if number < sizes[0]]
    assert sorted(main) == list(range(sizes[0]))
    assert [sum(task == {one} for task in tasks) for one in range(len(sizes))] == batches.counts


def test_numbers_of_batches_follow_the_probabilities() -> None:
    # Ten batches of the main task; square roots of 40, 160 and 10 are as 2 to 4 to 1.
    batches = batches_of([40, 160, 10], batch=4, temperature=2)
    assert batches.counts == [10, 20, 5]
    # A tiny task has a batch in every epoch.
    assert batches_of([4000, 1], batch=4, temperature=1).counts == [1000, 1]


def test_a_task_continues_in_the_next_epoch_and_starts_again_in_another_order() -> None:
    batches = batches_of([4, 16], batch=4, temperature=2)
    assert batches.counts == [1, 2]
    further = [[rows for rows in epoch_of(batches, epoch) if rows[0] >= 4] for epoch in range(4)]
    first, second = ([number for rows in further[i] + further[i + 1] for number in rows] for i in (0, 2))
    assert sorted(first) == sorted(second) == list(range(4, 20))
    assert first != second


def test_order_depends_on_seed_and_epoch_only() -> None:
    def batches(seed: int) -> TaskBatches:
        return batches_of([20, 50], batch=4, temperature=2, seed=seed)

    visited = batches(0)
    list(visited)  # an earlier epoch leaves no trace
    assert epoch_of(visited, 3) == epoch_of(batches(0), 3)
    assert epoch_of(batches(0), 3) != epoch_of(batches(0), 2)
    assert epoch_of(batches(0), 3) != epoch_of(batches(1), 3)


def test_measured_batches_are_spread_over_each_task() -> None:
    batches = batches_of([40, 160], batch=4, temperature=2)
    assert batches.measured(4) == [(1 / 3, [0, 10, 20, 30]), (2 / 3, [40, 80, 120, 160])]


def examples(letter: str, count: int, *, own: bool = False) -> IndexedExamples:
    """Queries about the next document, in a circle."""
    names = tuple(f"{letter}{number}" for number in range(count))
    return IndexedExamples(
        query_ids=names,
        queries=names,
        corpus_ids=names,
        corpus=names,
        relevant=tuple(np.array([(number + 1) % count]) for number in range(count)),
        negatives=tuple(np.empty(0, np.int64) for _ in names),
        own=np.arange(count) if own else None,
    )


def test_collator_takes_texts_roles_and_targets_of_the_task() -> None:
    calls: list[tuple[list[str], str | None, str]] = []

    def preprocess(texts: list[str], *, prompt: str | None, task: str) -> dict[str, Any]:
        calls.append((texts, prompt, task))
        return {"input_ids": torch.zeros(len(texts), 2)}

    def collator(found: IndexedExamples, **roles: str) -> BatchCollator:
        return BatchCollator(
            preprocess=preprocess, examples=found, hard_negatives=0, query_prompt="q", document_prompt="d", **roles
        )

    tasks = TaskCollator([collator(examples("a", 3)), collator(examples("b", 3, own=True), query_role="document")])
    batch = tasks([{"example": 3}, {"example": 4}])
    assert calls == [(["b0", "b1"], "q", "document"), (["b1", "b2"], "d", "document")]
    assert batch["example"].tolist() == [3, 4]
    # b1 is the positive of b0; for b1, which is b1 itself, it is masked.
    assert batch["label"].tolist() == [[POSITIVE, 0], [MASKED, POSITIVE]]
    tasks([{"example": 0}])
    assert (tasks.batch, [one.batch for one in tasks.collators]) == (2, [2, 1])  # numbered over all tasks
    tasks.epoch = 5
    assert [one.epoch for one in tasks.collators] == [5, 5]
    with pytest.raises(ValueError, match="too many values"):
        tasks([{"example": 2}, {"example": 3}])
