from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample, modified_at
from llama_index_ace_finetune.errors import DatasetError

DATA = TrainingData(
    examples=(
        TrainingExample(
            query_id="11-0",
            query="retry “upload” 猫",
            positive_ids=("11", "13"),
            negatives=(HardNegative("12", "dense", 0.61, 2), HardNegative("14", "judged", None, 0)),
            split="train",
            metadata={"memory_id": 11, "category": "ERRORS", "difficulty": "easy", "query_category": "direct"},
        ),
        TrainingExample(query_id="12-0", query="journal mode", positive_ids=("12",), split="dev"),
        TrainingExample(query_id="x", query="no part", positive_ids=("14",)),
    ),
    memories={"11": "Retry the upload", "12": "Use the journal", "13": "Retry it", "14": "Something else"},
    metadata={"source": "suite.json", "mining": {"kept": 2}},
    split={"version": 1, "queries": {"train": {"11-0": "hash"}}},
)


def original(**changes: Any) -> dict[str, Any]:
    """A file as the original writes it: texts only."""
    row = {
        "query": "retry upload",
        "positive": "Retry the upload",
        "negatives": ["Use the journal", "retry  the UPLOAD", "Use the journal"],
        "metadata": {"memory_id": 11, "category": "ERRORS", "difficulty": "easy", "query_category": "direct"},
    }
    return {"metadata": {"total_examples": 1}, "examples": [{**row, **changes}]}


def load(tmp_path: Path, document: Any) -> TrainingData:
    path = tmp_path / "training_data.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return TrainingData.load(path)


def refused(tmp_path: Path, document: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        load(tmp_path, document)
    message = str(caught.value)
    assert "training_data.json" in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


# ------------------------------------------------------------------------------------------------ round trip


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "training_data.json"
    DATA.save(path)
    loaded = TrainingData.load(path)
    assert loaded.examples == DATA.examples
    assert loaded.memories == DATA.memories
    assert loaded.split == DATA.split
    assert loaded.metadata["source"] == "suite.json"
    assert loaded.metadata["total_examples"] == 3
    assert loaded.metadata["format_version"] == "3.1"
    assert [example.query_id for example in loaded.examples_of("train")] == ["11-0"]
    assert [example.query_id for example in loaded.examples_of("dev")] == ["12-0"]
    assert list(path.parent.iterdir()) == [path]


def test_file_has_the_fields_of_the_original(tmp_path: Path) -> None:
    path = tmp_path / "training_data.json"
    DATA.save(path)
    row = json.loads(path.read_text(encoding="utf-8"))["examples"][0]
    assert row["query"] == "retry “upload” 猫"
    assert row["positive"] == "Retry the upload"
    assert row["negatives"] == ["Use the journal", "Something else"]
    assert row["metadata"]["memory_id"] == 11
    assert "猫" in path.read_text(encoding="utf-8")


def test_total_examples_is_updated_on_save(tmp_path: Path) -> None:
    DATA.save(tmp_path / "a.json")
    loaded = TrainingData.load(tmp_path / "a.json")
    TrainingData(loaded.examples[:1], loaded.memories, loaded.metadata).save(tmp_path / "b.json")
    assert TrainingData.load(tmp_path / "b.json").metadata["total_examples"] == 1


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(TEXT, st.integers(0, 4), st.lists(st.integers(0, 4), unique=True)), min_size=1, max_size=5))
@settings(max_examples=40)
def test_examples_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, list[int]]]) -> None:
    data = TrainingData(
        examples=tuple(
            TrainingExample(
                query_id=f"q{number}",
                query=query,
                positive_ids=(f"m{right}",),
                negatives=tuple(HardNegative(f"m{i}", "dense", 0.5, i + 1) for i in wrong if i != right),
                split="train",
            )
            for number, (query, right, wrong) in enumerate(rows)
        ),
        memories={f"m{i}": f"memory {i}" for i in range(5)},
    )
    path = tmp_path_factory.mktemp("data") / "d.json"
    data.save(path)
    assert TrainingData.load(path).examples == data.examples


# ------------------------------------------------------------------------------------------------ the original's files


def test_texts_get_ids_and_equal_texts_get_one(tmp_path: Path) -> None:
    data = load(tmp_path, original())
    (example,) = data.examples
    assert sorted(data.memories.values()) == ["Retry the upload", "Use the journal"]
    assert data.memories[example.positive_ids[0]] == "Retry the upload"
    # The second negative is the positive in other letters, the third repeats the first.
    assert [data.memories[i] for i in example.negative_ids] == ["Use the journal", "Use the journal"]
    assert example.split is None
    assert data.split is None
    assert example.metadata["memory_id"] == 11


def test_ids_of_the_file_are_not_reused(tmp_path: Path) -> None:
    document = {**original(), "memories": {"text-1": "kept"}}
    data = load(tmp_path, document)
    assert data.memories["text-1"] == "kept"
    assert sorted(data.memories.values()) == ["Retry the upload", "Use the journal", "kept"]


def test_byte_order_mark_is_removed(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + json.dumps(original())).examples[0].query == "retry upload"


# ------------------------------------------------------------------------------------------------ bad inputs


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        TrainingData.load(tmp_path / "none.json")
    with pytest.raises(DatasetError, match="is a folder"):
        TrainingData.load(tmp_path)


def test_error_of_a_truncated_file_names_the_line(tmp_path: Path) -> None:
    text = json.dumps(original(), indent=1)
    assert "is corrupt (invalid JSON on line " in refused(tmp_path, text[: len(text) // 2])


def test_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "training_data.json"
    path.write_bytes(b'{"examples": "\xff\xfe"}')
    with pytest.raises(DatasetError, match="it is not UTF-8"):
        TrainingData.load(path)


def test_deep_nesting(tmp_path: Path) -> None:
    assert "nested more than" in refused(tmp_path, "[" * 200_000)


@pytest.mark.parametrize("document", [[], {}, {"examples": []}, {"examples": {}}, {"examples": None}, "3", "null"])
def test_no_examples(tmp_path: Path, document: Any) -> None:
    assert "holds no training examples" in refused(tmp_path, document)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": 3}, "needs the texts 'query' and 'positive'"),
        ({"query": None}, "needs the texts 'query' and 'positive'"),
        ({"positive": ["x"]}, "needs the texts 'query' and 'positive'"),
        ({"negatives": "x"}, "'negatives' must be a list of texts"),
        ({"negatives": [1]}, "'negatives' must be a list of texts"),
        ({"metadata": [1]}, "'metadata' must be an object"),
        ({"split": "validation"}, "'split' is 'validation'; it must be one of train, dev, test"),
        ({"positive_ids": "11"}, "'positive_ids' must be a list"),
        ({"positive_ids": ["99"]}, "memory '99' is not among the file's 'memories'"),
        ({"positive_ids": [11]}, "memory 11 is not among the file's 'memories'"),
        ({"negative_ids": [["x"]]}, "is not among the file's 'memories'"),
        ({"negative_scores": [0.5]}, "'negative_scores' must be a list of 3, one for each negative"),
        ({"negative_sources": 5}, "'negative_sources' must be a list of 3"),
    ],
)
def test_bad_example_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    found = refused(tmp_path, original(**changes))
    assert "example 0" in found
    assert message in found


def test_row_that_is_not_an_object(tmp_path: Path) -> None:
    assert "example 1" in refused(tmp_path, {"examples": [*original()["examples"], "text"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memories": ["x"]}, "'memories' must map ids to texts"),
        ({"memories": {"1": None}}, "'memories' must map ids to texts"),
        ({"metadata": ["x"]}, "'metadata' must be an object"),
    ],
)
def test_bad_top_level_value_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(tmp_path, {**original(), **changes})


# ------------------------------------------------------------------------------------------------ its time


def test_time_is_that_of_the_newest_file(tmp_path: Path) -> None:
    for name, seconds in (("old.json", 1_600_000_000), ("new.json", 1_700_000_000), (".hidden", 1_800_000_000)):
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, (seconds, seconds))
    old, new = "2020-09-13T12:26:40+00:00", "2023-11-14T22:13:20+00:00"
    assert modified_at(tmp_path / "old.json") == old
    assert modified_at(str(tmp_path / "old.json"), None, tmp_path / "new.json") == new
    assert modified_at(tmp_path) == new
    assert modified_at(tmp_path, without=tmp_path / "new.json") == old
    assert modified_at("", None, tmp_path / "none.json") is None
    assert modified_at() is None


def test_time_of_the_data_is_saved_instead_of_the_run(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        DATA.save(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["metadata"]["generated_at"] is None
    dated = replace(DATA, metadata={**DATA.metadata, "generated_at": "2023-11-14T22:13:20+00:00"})
    dated.save(tmp_path / "c.json")
    assert TrainingData.load(tmp_path / "c.json").metadata["generated_at"] == "2023-11-14T22:13:20+00:00"


def test_sample_keeps_the_proportions_of_the_parts() -> None:
    parts = ["train"] * 80 + ["dev"] * 20
    examples = tuple(
        TrainingExample(query_id=f"q{n}", query=f"query {n}", positive_ids=("m",), negatives=(), split=part)
        for n, part in enumerate(parts)
    )
    data = TrainingData(examples=examples, memories={"m": "memory"})
    drawn = data.sample(10, seed=3)
    assert [sum(one.split == part for one in drawn.examples) for part in ("train", "dev")] == [8, 2]
    assert list(drawn.examples) == sorted(drawn.examples, key=lambda one: int(one.query_id[1:]))
    assert drawn == data.sample(10, seed=3) != data.sample(10, seed=4)
    assert len(data.sample(0, seed=3).examples) == 0
    assert data.sample(100, seed=3) is data
