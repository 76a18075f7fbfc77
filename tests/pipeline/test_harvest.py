from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.split import SplitSettings, split_dataset
from llama_index_ace_finetune.errors import AceFinetuneError, LogError
from llama_index_ace_finetune.pipeline.harvest import harvest
from llama_index_ace_finetune.production.log_settings import LogSettings
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import LoggedHit, RetrievalRecord
from llama_index_ace_finetune.run_folder import RunFolder

WORDS = ["uploads", "backups", "mails", "queues", "caches", "tokens", "builds", "tests", "shells", "ports"]


@pytest.fixture
def memories(tmp_path: Path) -> Path:
    file = tmp_path / "inventory.json"
    rows = [{"id": word, "text": f"how we handle {word}", "severity": 1} for word in WORDS]
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """Each word is asked for twice: judged positive, with the next memory judged negative."""
    path = tmp_path / "queries.db"
    with QueryLog.open(path, LogSettings(keep_days=None)) as log:
        asked = [(word, WORDS[(number + 1) % len(WORDS)]) for number, word in enumerate(WORDS)]
        for number, (word, other) in enumerate(asked):
            hits = tuple(LoggedHit(node_id=name, rank=rank) for rank, name in enumerate((word, other), 1))
            for turn, query in enumerate([f"what to do about {word} {word}", f"{word} fail in {number} ways today"]):
                log.write(RetrievalRecord(query_id=f"{word}-{turn}", time=2e9, query=query, hits=hits, seconds=0.01))
        assert log.flush()
        for word, other in asked:
            for turn in range(2):
                log.feedback(f"{word}-{turn}", word, 1)
                log.feedback(f"{word}-{turn}", other, -1)
    return path


def write_run(folder: Path, memories: Path) -> RunFolder:
    """The parts of a run that a harvest reads: data, split, manifest."""
    folder.mkdir()
    rows = [{"query": f"the old question on {word}", "memory_id": word} for word in WORDS[:8]]
    data = folder.parent / "old.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    dataset = read_dataset(data, memories)
    split_dataset(dataset, settings=SplitSettings(train=0.5, dev=0.25, test=0.25)).save(folder / "split.json")
    manifest = {"format_version": 2, "data": str(data), "memories": str(memories), "columns": None}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return RunFolder.open(folder)


def test_pairs_are_read_with_negatives(log_path: Path, memories: Path, tmp_path: Path) -> None:
    result = harvest(log_path, tmp_path / "data.jsonl", memories=memories)
    dataset = read_dataset(result.path, result.memories)
    assert len(dataset.queries) == 20
    assert set(dataset.memories) == set(WORDS)
    assert dataset.memories["uploads"].metadata["severity"] == 1
    [query_id] = [q.id for q in dataset.queries.values() if q.text == "what to do about uploads uploads"]
    assert dataset.relevant(query_id) == {"uploads"}
    assert dataset.judged_negative(query_id) == {"backups"}
    assert (result.report["counts"]["judged_positive"], result.report["counts"]["judged_negative"]) == (20, 20)
    assert json.loads((tmp_path / "data.report.json").read_text()) == result.report


def test_later_split_keeps_to_the_one_of_the_run(log_path: Path, memories: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", memories)
    old = json.loads(run.split.read_text())
    answers = {part: set(old["answers"][part]) for part in ("train", "dev", "test")}
    result = harvest(log_path, tmp_path / "data.jsonl", run=run.path)
    counts = result.report["counts"]
    assert [counts[f"{part}_queries"] for part in ("train", "dev", "test", "new")] == [
        *(2 * len(answers[part]) for part in ("train", "dev", "test")), 4,
    ]  # fmt: skip
    for seed in range(5):
        split = split_dataset(read_dataset(result.path, result.memories), settings=SplitSettings(seed=seed))
        assert answers["train"] <= set(split.answers["train"])
        assert answers["dev"] <= set(split.answers["dev"])
        assert answers["test"] <= set(split.answers["test"])
        assert len(split.train) + len(split.dev) + len(split.test) == 20


def test_memories_that_are_gone_are_counted(log_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "few.json"
    file.write_text(json.dumps([{"id": "uploads", "text": "how we handle uploads"}]), encoding="utf-8")
    result = harvest(log_path, tmp_path / "data.jsonl", memories=file)
    assert result.report["counts"]["memory_without_text"] == 36  # all but two positives and two negatives
    assert len(result.path.read_text().splitlines()) == 4


def test_errors_leave_no_files(log_path: Path, memories: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "data.jsonl"
    empty = tmp_path / "empty.db"
    QueryLog.open(empty).close()
    with pytest.raises(AceFinetuneError, match="has no positive to train on"):
        harvest(empty, out, memories=memories)
    with pytest.raises(AceFinetuneError, match="needs the texts of the memories"):
        harvest(log_path, out)
    with pytest.raises(AceFinetuneError, match=r"ends in \.jsonl"):
        harvest(log_path, out.with_suffix(".json"), memories=memories)
    with pytest.raises(LogError, match="is not a query log"):
        harvest(memories, out, memories=memories)
    with pytest.raises(LogError, match="does not exist"):
        harvest(tmp_path / "missing.db", out, memories=memories)
    assert not out.parent.exists()


def test_verbs(log_path: Path, memories: Path, tmp_path: Path) -> None:
    judged = tmp_path / "judged.csv"
    judged.write_text("query_id,node_id,value\nuploads-0,mails,-1\nmissing,mails,1\n", encoding="utf-8")

    def invoke(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == code, done.output
        return done.output

    assert "1 imported, 1 left out" in invoke("feedback", log_path, judged)
    assert "20 queries, 41 feedback records" in invoke("log", log_path)
    assert json.loads(invoke("log", log_path, "--out", tmp_path / "x.jsonl", "--ubi", "--json"))["queries"] == 20
    out = invoke("harvest", log_path, "--memories", memories, "--out", tmp_path / "data.jsonl")
    assert "20 positives by judgement" in out
    assert f"--data {tmp_path / 'data.jsonl'} --memories {tmp_path / 'data.memories.jsonl'}" in out
    assert invoke("inspect", "--data", tmp_path / "data.jsonl", "--memories", tmp_path / "data.memories.jsonl")
    assert "does not exist" in invoke("feedback", tmp_path / "missing.db", judged, code=2)
    assert not (tmp_path / "missing.db").exists()


@pytest.mark.slow
def test_second_run_from_the_last_weights_keeps_to_the_first(small_suite: Path, tmp_path: Path) -> None:
    """Serve, give feedback, harvest, and train from the last weights: nothing that was trained on is tested."""
    import llama_index_ace_finetune as ace
    from llama_index_ace_finetune.encoders.provenance import read_provenance

    mining = ace.MiningSettings(range_max=10)
    first = ace.run(
        data=small_suite, out=tmp_path / "one", mining=mining, training=ace.TrainingConfig(mode="linear")
    ).folder
    dataset = ace.read_dataset(small_suite)
    with ace.QueryLog.open(tmp_path / "queries.db") as log:
        retriever = ace.FineTunedHybridRetriever.from_run(first.path, query_log=log)
        for query in dataset.queries.values():
            [best, *_] = retriever.retrieve(f"please: {query.text}")
            for answer in dataset.relevant(query.id):
                retriever.feedback(best.query_id, answer, 1)
        retriever.close()
        assert {record.run for record in log.records()} == {str(first.path.resolve())}
    result = ace.harvest(tmp_path / "queries.db", tmp_path / "data.jsonl", run=first.path)
    second = ace.run(
        data=result.path,
        memories=result.memories,
        out=tmp_path / "two",
        mining=mining,
        training=ace.TrainingConfig(mode="linear", base_model=str(first.model)),
    ).folder
    assert ace.audit(second.path).passed
    before, after = (json.loads(folder.split.read_text())["answers"] for folder in (first, second))
    assert set(after["test"].values()) <= set(before["test"].values())
    assert set(after["train"].values()).isdisjoint(before["test"].values())
    records = [read_provenance(folder.model) for folder in (first, second)]
    for part in ("train", "dev"):
        assert set(records[0]["seen"][part]["answer_hashes"]) <= set(records[1]["seen"][part]["answer_hashes"])
    assert set(before["test"].values()) <= set(records[1]["held_out"]["answer_hashes"])
