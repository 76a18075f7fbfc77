from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from llama_index_ace_finetune.training.config import TaskName
from llama_index_ace_finetune.training.data.derived_tasks import derive_task
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.data.memory_parts import memory_parts
from llama_index_ace_finetune.training.data.task import TrainingTask


def examples(relevant: list[list[int]], memories: int) -> IndexedExamples:
    return IndexedExamples(
        query_ids=tuple(f"q{number}" for number in range(len(relevant))),
        queries=tuple(f"query {number}" for number in range(len(relevant))),
        corpus_ids=tuple(f"m{number}" for number in range(memories)),
        corpus=tuple(f"memory {number}" for number in range(memories)),
        relevant=tuple(np.array(rows) for rows in relevant),
        negatives=tuple(np.empty(0, np.int64) for _ in relevant),
    )


def derive(
    name: TaskName,
    found: IndexedExamples,
    metadata: dict[str, dict[str, Any]] | None = None,
    *,
    held: tuple[int, ...] = (),
    dev: float = 0.0,
) -> TrainingTask | None:
    held_out = np.isin(np.arange(len(found.corpus)), held)
    return derive_task(name, found, metadata=metadata or {}, held_out=held_out, dev=dev, seed=0)


def related(task: TrainingTask | None) -> dict[str, list[str]]:
    assert task is not None
    found = task.examples
    return {
        query: [found.corpus[row] for row in rows] for query, rows in zip(found.queries, found.relevant, strict=True)
    }


def test_paraphrases_are_queries_with_a_positive_in_common() -> None:
    found = examples([[0], [0, 1], [1], [2], [2], [3]], 4)
    task = derive("paraphrases", found)
    assert related(task) == {
        "query 0": ["query 1"],
        "query 1": ["query 2", "query 0"],  # each text starts with another positive
        "query 2": ["query 1"],
        "query 3": ["query 4"],
        "query 4": ["query 3"],
    }
    assert task is not None
    assert (task.query_role, task.document_role, task.derived) == ("query", "query", True)
    assert task.examples.own is not None
    assert task.examples.own.tolist() == [0, 1, 2, 3, 4]  # never a negative of itself


def test_queries_with_equal_texts_are_one() -> None:
    found = dataclasses.replace(examples([[0], [0], [0], [1], [1]], 2), queries=("a", " A ", "b", "c", "d"))
    assert related(derive("paraphrases", found)) == {"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]}


def test_duplicates_are_judged_titled_or_named() -> None:
    found = examples([[0, 1], [2]], 10)
    metadata = {
        "m2": {"title": "Key rotation"},
        "m3": {"title": "key  ROTATION"},
        "m4": {"title": ""},
        "m5": {"title": None, "duplicate_of": "m6"},
        "m7": {"duplicate_of": "elsewhere"},
        "m8": {"title": "alone"},
    }
    task = derive("duplicates", found, metadata)
    assert related(task) == {
        "memory 0": ["memory 1"],
        "memory 1": ["memory 0"],
        "memory 2": ["memory 3"],
        "memory 3": ["memory 2"],
        "memory 5": ["memory 6"],
        "memory 6": ["memory 5"],
    }
    assert task is not None
    assert (task.query_role, task.document_role) == ("document", "document")


def test_a_title_of_many_memories_does_not_make_duplicates() -> None:
    found = examples([[0, 1], [2, 3]], 40)
    task = derive("duplicates", found, {f"m{number}": {"title": "Introduction"} for number in range(40)})
    assert set(related(task)) == {"memory 0", "memory 1", "memory 2", "memory 3"}


def test_memories_of_a_category_are_positives_and_all_others_negatives() -> None:
    found = examples([[0]], 6)
    metadata = {f"m{number}": {"category": ["storage", "network"][number % 2]} for number in range(6)}
    assert related(derive("category", found, metadata)) == {
        "memory 0": ["memory 2", "memory 4"],
        "memory 1": ["memory 3", "memory 5"],
        "memory 2": ["memory 4", "memory 0"],
        "memory 3": ["memory 5", "memory 1"],
        "memory 4": ["memory 0", "memory 2"],
        "memory 5": ["memory 1", "memory 3"],
    }


def test_difficulty_is_used_where_no_memory_has_a_category() -> None:
    metadata = {f"m{number}": {"difficulty": ["easy", "hard"][number // 2]} for number in range(4)}
    assert related(derive("category", examples([[0]], 4), metadata))["memory 3"] == ["memory 2"]


def test_answers_of_held_out_queries_are_in_no_task() -> None:
    found = examples([[0, 1], [2]], 6)
    metadata = {f"m{number}": {"category": "ab"[number % 2], "title": f"t{number // 2}"} for number in range(6)}
    for name in ("duplicates", "category"):
        task = derive(name, found, metadata, held=(5,), dev=0.3)
        assert task is not None
        assert "memory 5" not in task.examples.corpus
        assert task.dev is None or "memory 5" not in task.dev.corpus


FIRST, SECOND, THIRD = (f"{word} two three four five six seven eight." for word in ("One", "Eins", "Uno"))


def test_parts_of_a_memory() -> None:
    assert memory_parts(f"{FIRST} {SECOND}", {}) == [FIRST, SECOND]
    assert memory_parts(f"A title\n{FIRST}\n\n{SECOND}", {"title": " A title "}) == ["A title", FIRST, SECOND]
    # The cut after the first of three sentences of 8 words is as good as the one after the second.
    assert memory_parts(f"{FIRST} {SECOND} {THIRD}", {}) == [FIRST, f"{SECOND} {THIRD}"]
    # A half would have 7 words.
    short = FIRST.replace("two ", "")
    for text in (f"{short} {SECOND}", f"{FIRST} {short}", "a b c", f"{FIRST}{SECOND}"):
        assert memory_parts(text, {"title": 7}) == [text]
    assert memory_parts("Only a title", {"title": "Only a title"}) == ["Only a title"]
    assert memory_parts("", {"heading": "h"}) == ["h"]


def test_structure_needs_no_query() -> None:
    found = dataclasses.replace(examples([], 5), corpus=(f"{FIRST} {SECOND}", "b", "c", "d", f"Held. {THIRD}"))
    metadata = {
        "m1": {"title": "B", "section": "s"},
        "m2": {"section": "s"},
        "m3": {"title": "shared", "parent": None},
        "m4": {"title": "held", "section": "s"},
    }
    task = derive("structure", found, metadata, held=(4,))
    # The text of m1 is its title in another case, and a group of its own with m2.
    assert related(task) == {
        FIRST: [SECOND],
        SECOND: [FIRST],
        "B": ["c"],
        "c": ["B"],
        "shared": ["d"],
        "d": ["shared"],
    }
    assert task is not None
    assert (task.query_role, task.document_role) == ("document", "document")


def test_titles_of_many_memories_are_not_used() -> None:
    found = dataclasses.replace(examples([], 24), corpus=tuple(f"memory {number}" for number in range(24)))
    metadata = {f"m{number}": {"title": "Introduction" if number < 21 else "Pumps"} for number in range(24)}
    task = derive("structure", found, {**metadata, "m0": {"title": "Fans"}})
    assert "Introduction" in related(task)  # of 20 memories
    task = derive("structure", found, {**metadata, "m23": {"title": "Fans"}})
    assert set(related(task)) == {"Pumps", "memory 21", "memory 22", "Fans", "memory 23"}


@pytest.mark.parametrize("name", ["duplicates", "paraphrases", "category", "structure"])
def test_without_material_there_is_no_task(name: TaskName) -> None:
    assert derive(name, examples([[0], [1], [2]], 3)) is None
    # One group holds all texts, so nothing is a negative.
    same = {f"m{number}": {"category": "all"} for number in range(3)}
    assert derive(name, examples([[0], [0], [0]], 3), same) is None


def test_dev_is_made_of_whole_groups_of_which_nothing_is_trained_on() -> None:
    found = examples([[number // 3] for number in range(60)], 20)
    task = derive("paraphrases", found, dev=0.2)
    assert task is not None
    assert task.dev is not None
    dev, train = set(task.dev.queries), set(task.examples.queries)
    assert len(dev) == 12  # 4 of 20 groups of 3
    assert train.isdisjoint(dev)
    trained = {text for texts in related(task).values() for text in texts}
    assert trained == train
    groups = {int(text.split()[1]) // 3 for text in dev}
    assert len(groups) == 4


def test_few_groups_are_divided_by_text() -> None:
    metadata = {f"m{number}": {"category": "ab"[number % 2]} for number in range(40)}
    task = derive("category", examples([[0]], 40), metadata, dev=0.25)
    assert task is not None
    assert task.dev is not None
    assert len(task.dev.queries) == 10
    trained = {*task.examples.queries, *(text for texts in related(task).values() for text in texts)}
    assert trained.isdisjoint(task.dev.queries)
    assert len(trained) == 30
    # The dev texts are ranked among all of their category, trained on or not.
    assert {len(rows) for rows in task.dev.relevant} == {19}


def test_texts_of_a_large_group_beyond_200_are_in_no_batch() -> None:
    metadata = {f"m{number}": {"category": "large" if number < 300 else "small"} for number in range(310)}
    task = derive("category", examples([[0]], 310), metadata)
    assert task is not None
    assert sum(int(text.split()[1]) < 300 for text in task.examples.queries) == 200
    assert len(task.examples.queries) == 210
