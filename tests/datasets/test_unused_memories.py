"""Memories that lie beside the data, and are not used, are named with the option that adds them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import dataset_files as files
import pytest

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.errors import DatasetError

INVENTORY = [{"id": 11, "payload": {"lesson": "Retry the upload with a growing delay"}}] + [
    {"id": number, "payload": {"lesson": f"Lesson number {number}"}} for number in range(100, 140)
]
BULLETS = {"bullets": {f"s-{number}": {"content": f"Lesson number {number}"} for number in range(5)}}


def test_inventory_beside_a_suite_is_named_with_its_option(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    suite = files.write_json(tmp_path / "suite.json", files.suite())
    inventory = files.write_json(tmp_path / "memory_inventory.json", INVENTORY)
    with caplog.at_level(logging.WARNING):
        dataset = read_dataset(suite)
    assert caplog.messages == [f"{inventory} holds 40 more memories and is not used; add --memories {inventory}"]
    assert len(dataset.memories) == 2
    assert dataset.ledger.counts["memories_not_used"] == 1
    caplog.clear()
    assert len(read_dataset(suite, inventory).memories) == 42
    assert len(read_dataset(tmp_path).memories) == 42  # the folder as a whole
    assert caplog.messages == []


def test_playbook_in_the_folder_of_a_suite_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files.write_json(tmp_path / "suite.json", files.suite())
    files.write_json(tmp_path / "inventory.json", INVENTORY)
    files.write_json(tmp_path / "playbook.json", BULLETS)
    read_dataset(tmp_path)
    assert [message.split(" and is")[0] for message in caplog.messages] == [
        f"{tmp_path / 'playbook.json'} holds 5 more memories"
    ]


def test_other_files_are_not_memories(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("query,passage_id,passage\nwhy,p1,Because of the cache\n")
    (tmp_path / "people.csv").write_text("id,text\n7,Somebody else entirely\n")  # no id in common
    (tmp_path / "broken.json").write_text("{")
    files.write_json(tmp_path / "settings.json", {"some": "thing"})
    (tmp_path / "other.csv").write_text("query,passage\nhow,With care\n")
    read_dataset(pairs)
    assert caplog.messages == []


def test_texts_of_a_log_that_lie_beside_it_are_named_in_the_error(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("query,snippet_id\nwhy,p1\nhow,p2\n")
    texts = tmp_path / "texts.jsonl"
    rows = [{"id": "p1", "text": "Because of the cache"}, {"id": "p2", "text": "With care"}]
    texts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(DatasetError, match=f"give the texts of these ids, such as with --memories {texts}"):
        read_dataset(log)
