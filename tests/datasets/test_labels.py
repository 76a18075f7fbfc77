"""Metadata of any JSON type in filters, groups and the balance of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dataset_files as files
import pytest

from llama_index_ace_finetune.datasets.labels import labels_of
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.components import group_values
from llama_index_ace_finetune.datasets.splits.split import SplitSettings, split_dataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.evaluation.slices import slice_by_label
from llama_index_ace_finetune.mining.training_data_generator import choose_queries


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        (None, ()),
        ("net", ("net",)),
        (["net", "vpn", "net", None], ("net", "vpn")),
        ([["net"], ["vpn"]], ("net", "vpn")),
        ({"b": [1], "a": None}, ('{"a": null, "b": [1]}',)),
        (0.3, ("0.3",)),
        (True, ("True",)),
        ([], ()),
    ],
)
def test_labels(value: Any, labels: tuple[str, ...]) -> None:
    assert labels_of(value) == labels


def _dataset(folder: Path, categories: list[Any]) -> Any:
    rows = [
        {"query": f"alpha {n} beta {n * n}", "answer": f"gamma {n * 7} delta {n}", "category": category}
        for n, category in enumerate(categories)
    ]
    return read_dataset(files.write_json_lines(folder / "p.jsonl", rows))


def test_query_with_a_skipped_category_among_several_is_left_out(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, [["net", "vpn"], "net", {"x": 1}, ["disk"], None] * 6)
    split = split_dataset(dataset, settings=SplitSettings(group_field="category", train=0.6, dev=0.2, test=0.2))
    kept = choose_queries(dataset, split, skip_categories=frozenset({"vpn"}))
    assert kept
    assert all("vpn" not in labels_of(dataset.queries[i].metadata.get("category")) for i in kept)


def test_each_of_several_values_is_a_group(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, [["net", "vpn"]])
    (query_id,) = dataset.queries
    assert group_values(dataset, query_id, "category") == ["net", "vpn"]


def test_query_with_several_labels_is_in_the_slice_of_each() -> None:
    slices = {s.name: s.rows.tolist() for s in slice_by_label("category", [("a", "b"), "b", None] * 10)}
    assert slices == {"a": list(range(0, 30, 3)), "b": [n for n in range(30) if n % 3 != 2]}
    rare = slice_by_label("category", [("a", "b")] * 3)
    assert [(s.name, s.rows.tolist()) for s in rare] == [("other", [0, 1, 2])]


@pytest.mark.parametrize("shared", ["Read the sign.", "See page 1."])
def test_memory_that_connects_all_queries_is_named(tmp_path: Path, shared: str) -> None:
    rows = [{"query": f"alpha {n} beta {n * n}", "positives": [f"gamma {n}", shared]} for n in range(30)]
    dataset = read_dataset(files.write_json_lines(tmp_path / "p.jsonl", rows))
    with pytest.raises(DatasetError) as caught:
        split_dataset(dataset)
    message = str(caught.value)
    assert "30 of 30 queries have the relevant memory" in message
    assert shared in message
    assert "remove its judgements" in message
    assert len(message) < 500


def test_group_that_connects_all_queries_is_named(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, ["everything"] * 20)
    with pytest.raises(DatasetError, match="20 of 20 queries have the category 'everything', which connects them"):
        split_dataset(dataset, settings=SplitSettings(group_field="category"))


def test_chain_of_shared_answers_is_named(tmp_path: Path) -> None:
    rows = [{"query": f"word{n} q{n * 13}", "positives": [f"text {n}", f"text {n + 1}"]} for n in range(30)]
    dataset = read_dataset(files.write_json_lines(tmp_path / "p.jsonl", rows))
    with pytest.raises(DatasetError, match="30 of 30 queries are connected, one by one"):
        split_dataset(dataset)


def test_too_few_queries_ask_for_more(tmp_path: Path) -> None:
    dataset = read_dataset(files.write_json_lines(tmp_path / "p.jsonl", [{"query": "a", "answer": "b"}]))
    with pytest.raises(DatasetError, match="add more queries"):
        split_dataset(dataset)
