from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_index_ace_finetune.errors import AceFinetuneError, LogError
from llama_index_ace_finetune.production.log_settings import LogSettings
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import FeedbackRecord, LoggedHit, RetrievalRecord

Make = Callable[..., RetrievalRecord]
DAY = 86_400.0


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_records_come_back_as_written(log: QueryLog, record: Make) -> None:
    hit = LoggedHit(node_id="a", rank=1, score=0.5, dense_rank=2, dense_score=0.25, sparse_rank=1, sparse_score=3.5,
                    team="x")  # fmt: skip
    first = RetrievalRecord(
        query_id="q1", time=1e9, query="große 質問", hits=(hit,), seconds=0.25, served_by="finetuned",
        fingerprint="f" * 32, run="/runs/one", mode="hybrid", team="t", user="u", extra={"cohort": 3},
    )  # fmt: skip
    written = [first, record("q2", "", "")]
    assert all(log.write(one) for one in written)
    assert list(log.records()) == written
    assert (log.written, log.dropped, log.counts()) == (2, {}, (2, 0))


def test_records_are_selected_by_time_run_and_team(log: QueryLog, record: Make) -> None:
    for number in range(4):
        log.write(
            record(f"q{number}", time=1e9 + number, run="one" if number % 2 else "two", team="t" * number or None)
        )

    def ids(**selection) -> str:
        return "".join(one.query_id[1] for one in log.records(**selection))

    assert ids(since=1e9 + 1, until=1e9 + 3) == "12"
    assert (ids(run="one"), ids(run="three"), ids(team="tt")) == ("13", "", "2")


def test_reading_needs_several_pages(log: QueryLog, record: Make) -> None:
    for number in range(2500):
        log.write(record(f"q{number}"))
    assert [one.query_id for one in log.records()] == [f"q{number}" for number in range(2500)]


def test_order_is_that_of_writing_if_the_clock_is_set_back(log: QueryLog, record: Make) -> None:
    for name, moment in (("q1", 2e9), ("q2", 1e9), ("q3", 1.5e9)):
        log.write(record(name, time=moment))
    assert [one.query_id for one in log.records()] == ["q1", "q2", "q3"]
    assert [one.query_id for one in log.records(since=1.2e9)] == ["q1", "q3"]


def test_feedback(log: QueryLog, record: Make) -> None:
    log.write(record())
    log.feedback("q1", "a", 1, reason="solved it")
    log.feedback("q1", "a", 1)
    log.feedback("q1", "b", False)
    log.feedback("q1", "b", 0.5, kind="use", source="click")
    found = [(one.node_id, one.value, one.kind, one.source, one.reason) for one in log.feedback_records()]
    assert found == [
        ("a", 1.0, "judgement", "user", "solved it"),
        ("b", -1.0, "judgement", "user", None),
        ("b", 0.5, "use", "click", None),
    ]


def test_later_feedback_of_a_source_replaces_the_earlier_one(log: QueryLog, record: Make) -> None:
    log.write(record())
    for value in (1, -1, 1, -0.5):
        log.feedback("q1", "a", value)
    assert [(one.node_id, one.value) for one in log.feedback_records()] == [("a", -0.5)]


@pytest.mark.parametrize("value", [0, 1.5, -2, float("nan"), float("inf"), "1", None])
def test_value_out_of_range_is_refused(log: QueryLog, record: Make, value: object) -> None:
    log.write(record())
    with pytest.raises(AceFinetuneError, match="give a number from -1"):
        log.feedback("q1", "a", value)
    assert log.counts() == (1, 0)


def test_feedback_needs_a_known_query_and_names(log: QueryLog, record: Make) -> None:
    log.write(record())
    with pytest.raises(LogError, match=r"query id 'q2' is not in the query log"):
        log.feedback("q2", "a", 1)
    with pytest.raises(AceFinetuneError, match="node_id of feedback is ''"):
        log.feedback("q1", "", 1)
    with pytest.raises(AceFinetuneError, match="use has the value -1"):
        log.feedback("q1", "a", -1, kind="use")
    with pytest.raises(AceFinetuneError, match="kind of feedback is 'click'"):
        log.feedback("q1", "a", 1, kind="click")


def test_redaction_is_before_writing_and_its_failure_drops_the_record(tmp_path: Path, record: Make) -> None:
    def redact(text: str) -> str:
        if "secret" in text:
            raise ValueError(text)
        return text.replace("anna@example.org", "<email>")

    path = tmp_path / "log.db"
    with QueryLog.open(path, LogSettings(redact=redact)) as log:
        log.write(record("q1", "mail of anna@example.org"))
        log.write(record("q2", "the secret one"))
        log.feedback("q1", "a", 1, reason="ask anna@example.org")
        assert [one.query for one in log.records()] == ["mail of <email>"]
        assert [one.reason for one in log.feedback_records()] == ["ask <email>"]
        assert log.dropped == {"redaction failed": 1}
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"<email>" in stored
    assert b"anna" not in stored
    assert b"secret" not in stored


def test_sampling_leaves_queries_out(tmp_path: Path) -> None:
    with QueryLog.open(tmp_path / "log.db", LogSettings(sample=0.25)) as log:
        sampled = sum(log.new_query_id() is not None for _ in range(4000))
    assert 850 < sampled < 1150  # 1000, with a standard deviation of 27


def test_old_queries_and_their_feedback_are_deleted(tmp_path: Path, record: Make) -> None:
    path, now = tmp_path / "log.db", time.time()
    with QueryLog.open(path, LogSettings(keep_days=None)) as log:
        for name, age in (("old", 31.0), ("new", 29.0)):
            log.write(record(name, time=now - age * DAY))
            log.feedback(name, "a", 1)
        assert log.counts() == (2, 2)
    with QueryLog.open(path, LogSettings(keep_days=30)) as log:
        log.write(record("now", time=now))
        assert [one.query_id for one in log.records()] == ["new", "now"]
        assert [one.query_id for one in log.feedback_records()] == ["new"]


def test_size_limit_deletes_the_oldest_without_feedback_first(tmp_path: Path, record: Make) -> None:
    path = tmp_path / "log.db"
    with QueryLog.open(path, LogSettings(max_bytes=2**20, keep_days=None)) as log:
        log.write(record("judged", "x" * 1000))
        log.feedback("judged", "a", 1)
        for number in range(3000):
            log.write(record(f"q{number}", "x" * 1000))
        ids = [one.query_id for one in log.records()]
    assert ids[0] == "judged"
    assert ids[-1] == "q2999"
    assert 100 < len(ids) < 2500
    assert path.stat().st_size < 3 * 2**20


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sample": 0}, "sample"), ({"keep_days": -1}, "keep_days"), ({"max_bytes": 10}, "max_bytes"),
     ({"queue_size": 0}, "queue_size")],
)  # fmt: skip
def test_settings_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(AceFinetuneError, match=message):
        LogSettings(**options)


def test_full_queue_drops_and_counts(tmp_path: Path, record: Make) -> None:
    path = tmp_path / "log.db"
    with QueryLog.open(path, LogSettings(queue_size=5)) as log:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        log.write(record("q"))
        wait_for(lambda: log._writer._queue.empty())
        start = time.perf_counter()
        accepted = [log.write(record(f"q{number}")) for number in range(20)]
        assert time.perf_counter() - start < 0.1
        assert accepted == [True] * 5 + [False] * 15
        holder.execute("COMMIT")
        holder.close()
        assert len(list(log.records())) == 6
        assert (log.written, log.dropped) == (6, {"queue full": 15})


def test_database_that_stays_locked_drops_at_close(tmp_path: Path, record: Make) -> None:
    path = tmp_path / "log.db"
    log = QueryLog.open(path)
    log.write(record("q1"))
    assert log.flush()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    log.write(record("q2"))
    assert not log.flush(0.3)
    assert [one.query_id for one in QueryLog.open(path, read_only=True).records()] == ["q1"]
    log._writer.close(0.2)
    assert log.dropped == {"locked": 1}
    assert log.write(record("q3")) is False
    holder.close()
    assert [one.query_id for one in QueryLog.open(path, read_only=True).records()] == ["q1"]


def test_full_disk_drops_and_what_was_committed_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    program = f"""
import resource, signal, sys
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import RetrievalRecord
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = QueryLog.open({str(path)!r})
def write(name):
    log.write(RetrievalRecord(query_id=name, time=2e9, query="x" * 5000, hits=(), seconds=0.0))
write("first")
assert log.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for number in range(200):
    write(f"q{{number}}")
assert log.flush()
assert log.dropped.total() > 100, log.dropped
assert set(log.dropped) <= {{"disk full", "error"}}, log.dropped  # SQLite reports a limit of the file as an I/O error
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write("last")
assert log.flush()
print(log.written, log.dropped.total())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written, dropped = map(int, done.stdout.split())
    assert written + dropped == 202
    ids = [one.query_id for one in QueryLog.open(path, read_only=True).records()]
    assert len(ids) == written
    assert (ids[0], ids[-1]) == ("first", "last")
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_killed_process_leaves_a_whole_log(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    program = f"""
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import RetrievalRecord
log = QueryLog.open({str(path)!r})
for number in range(10**9):
    log.write(RetrievalRecord(query_id=f"q{{number}}", time=2e9, query="x" * 500, hits=(), seconds=0.0))
    if number % 300 == 299:
        assert log.flush()
        print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    committed = [int(process.stdout.readline()) for _ in range(2)][-1]
    process.kill()
    process.wait()
    with QueryLog.open(path) as log:
        ids = [one.query_id for one in log.records()]
        assert len(ids) > committed
        assert ids == [f"q{number}" for number in range(len(ids))]
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_two_processes_write_to_one_log(tmp_path: Path, record: Make) -> None:
    path = tmp_path / "log.db"
    program = f"""
import sys
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import RetrievalRecord
log = QueryLog.open({str(path)!r})
for number in range(600):
    log.write(RetrievalRecord(query_id=f"{{sys.argv[1]}}{{number}}", time=2e9, query="x", hits=(), seconds=0.0))
log.close()
assert (log.written, log.dropped) == (600, {{}})
"""
    processes = [subprocess.Popen([sys.executable, "-c", program, name]) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    ids = [one.query_id for one in QueryLog.open(path, read_only=True).records()]
    for name in "ab":
        assert [one for one in ids if one.startswith(name)] == [f"{name}{number}" for number in range(600)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is not available")
def test_forked_child_writes_with_a_connection_of_its_own(log: QueryLog, record: Make) -> None:
    for number in range(50):
        log.write(record(f"parent{number}"))
    if (child := os.fork()) == 0:
        log.write(record("child"))
        os._exit(0 if log.flush() and log.dropped.total() == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    log.write(record("after"))
    ids = [one.query_id for one in log.records()]
    assert sorted(ids) == sorted([*(f"parent{number}" for number in range(50)), "child", "after"])


def test_exit_of_the_interpreter_writes_what_is_queued(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    program = f"""
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import RetrievalRecord
log = QueryLog.open({str(path)!r})
for number in range(20):
    log.write(RetrievalRecord(query_id=str(number), time=2e9, query="x", hits=(), seconds=0.0))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert len(list(QueryLog.open(path, read_only=True).records())) == 20


def test_damaged_records_are_left_out(log: QueryLog, record: Make, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(6):
        log.write(record(f"q{number}"))
    log.feedback("q0", "a", 1)
    log.feedback("q0", "b", 1)
    assert log.flush()
    with sqlite3.connect(log.path) as database:
        for number, hits in enumerate(["[", '[["a"]]', "7", json.dumps([[None] * 7]), '[["a",true,1,1,1,1,null]]']):
            database.execute("UPDATE queries SET hits = ? WHERE query_id = ?", (hits, f"q{number}"))
        database.execute("UPDATE feedback SET value = 7 WHERE node_id = 'a'")
    assert [one.query_id for one in log.records()] == ["q5"]
    assert [one.node_id for one in log.feedback_records()] == ["b"]
    assert "5 damaged record(s)" in caplog.text


def test_files_that_are_no_log(tmp_path: Path, record: Make) -> None:
    text, other, newer = tmp_path / "text.db", tmp_path / "other.db", tmp_path / "newer.db"
    text.write_text("no database " * 10)
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE queries (a)")
        database.execute("PRAGMA user_version = 1")
    with QueryLog.open(newer) as log:
        log.write(record())
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 2")
    for path, message in ((text, "is not a query log"), (other, "is not a query log"), (newer, "format version 2")):
        before = path.read_bytes()
        for read_only in (False, True):
            with pytest.raises(LogError, match=message):
                QueryLog.open(path, read_only=read_only)
        assert path.read_bytes() == before
    with pytest.raises(LogError, match="is a folder"):
        QueryLog.open(tmp_path, read_only=True)
    with pytest.raises(LogError, match="does not exist"):
        QueryLog.open(tmp_path / "missing.db", read_only=True)
    assert not (tmp_path / "missing.db").exists()


def test_read_only_log_is_not_written(tmp_path: Path, record: Make) -> None:
    QueryLog.open(tmp_path / "log.db").close()
    with pytest.raises(LogError, match="opened read_only"):
        QueryLog.open(tmp_path / "log.db", read_only=True).write(record())


def test_record_that_is_not_json_is_dropped(log: QueryLog, record: Make) -> None:
    log.write(record("q1", extra={"value": object()}))
    log.write(FeedbackRecord(query_id="q1", node_id="\ud800", value=1, time=1e9))
    log.write(record("q2"))
    assert [one.query_id for one in log.records()] == ["q2"]
    assert [one.node_id for one in log.feedback_records()] == ["?"]
    assert log.dropped == {"error": 1}
