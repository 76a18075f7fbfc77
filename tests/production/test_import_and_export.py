from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.production.export_log import export_log
from llama_index_ace_finetune.production.import_feedback import import_feedback
from llama_index_ace_finetune.production.log_settings import LogSettings
from llama_index_ace_finetune.production.mask_personal_data import mask_personal_data
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import RetrievalRecord

Make = Callable[..., RetrievalRecord]


def given(log: QueryLog) -> list[tuple[str, str, float, str, str]]:
    return [(one.query_id, one.node_id, one.value, one.kind, one.source) for one in log.feedback_records()]


def test_csv_is_imported_and_rows_that_cannot_be_used_are_counted(log: QueryLog, record: Make, tmp_path: Path) -> None:
    log.write(record("q1"))
    file = tmp_path / "judged.csv"
    file.write_text(
        "\ufeffquery_id,node_id,value,reason\nq1,a,1,good\nq1,b,-1,\nq1,a,1,again\nq1,a,-1,changed\nunknown,a,1,\n"
        "q1,c,7,\nq1,c,much,\nq1,,1,\n",
        encoding="utf-8",
    )
    found = import_feedback(log, file)
    assert found.counts == {"imported": 2, "repeated": 1, "changed": 1, "left_out": 4}
    assert [line.split(":")[0] for line in found.examples] == ["line 6", "line 7", "line 8", "line 9"]
    assert "is not in the log" in found.examples[0]
    assert given(log) == [("q1", "a", -1.0, "judgement", "import"), ("q1", "b", -1.0, "judgement", "import")]
    assert import_feedback(log, file).counts["imported"] == 0


def test_json_lines_are_imported(log: QueryLog, record: Make, tmp_path: Path) -> None:
    log.write(record("q1"))
    file = tmp_path / "clicks.jsonl"
    rows = [{"query_id": "q1", "node_id": "a", "value": 1, "kind": "use", "source": "click", "time": 5.0, "page": 3}]
    file.write_text("\n".join([*map(json.dumps, rows), "", "{", "[1]", '{"query_id": "q1"}']), encoding="utf-8")
    found = import_feedback(log, file)
    assert found.counts == {"imported": 1, "left_out": 3}
    assert given(log) == [("q1", "a", 1.0, "use", "click")]
    assert [one.time for one in log.feedback_records()] == [5.0]


def test_more_rows_than_the_queue_holds(tmp_path: Path, record: Make) -> None:
    with QueryLog.open(tmp_path / "log.db", LogSettings(queue_size=3, keep_days=None)) as log:
        log.write(record("q1"))
        file = tmp_path / "many.jsonl"
        rows = (json.dumps({"query_id": "q1", "node_id": f"n{number}", "value": 1}) for number in range(50))
        file.write_text("\n".join(rows), encoding="utf-8")
        assert import_feedback(log, file).counts == {"imported": 50}
        assert log.counts() == (1, 50)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "has no row"),
        ("a.csv", b"query,node\nq1,a\n", "line 2: the row has no query_id"),
        ("a.csv", b"query_id,node_id,value\nnone,a,1\n", "line 2: the query id 'none' is not in the log"),
        ("a.jsonl", b"\xff\xfe\x00", "cannot be read"),
        ("a.txt", b"", "from .csv or .jsonl"),
    ],
)
def test_file_without_usable_feedback(log: QueryLog, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        import_feedback(log, tmp_path / name)
    assert log.counts() == (0, 0)


def test_export_as_json_lines(log: QueryLog, record: Make, tmp_path: Path) -> None:
    log.write(record("q1", "große Uploads", run="/runs/one"))
    log.feedback("q1", "b", 1)
    queries, feedback = export_log(log, tmp_path / "out.jsonl")
    [row] = map(json.loads, queries.read_text(encoding="utf-8").splitlines())
    assert (row["query"], row["run"], row["hits"][1]["node_id"], row["hits"][1]["rank"]) == (
        "große Uploads", "/runs/one", "b", 2,
    )  # fmt: skip
    [event] = map(json.loads, feedback.read_text(encoding="utf-8").splitlines())
    assert (feedback.name, event["query_id"], event["value"]) == ("out.feedback.jsonl", "q1", 1.0)


def test_export_as_parquet(log: QueryLog, record: Make, tmp_path: Path) -> None:
    from pyarrow import parquet

    for number in range(3):
        log.write(record(f"q{number}", team="t" if number == 2 else None))
    queries, feedback = export_log(log, tmp_path / "out.parquet")
    table = parquet.read_table(queries)
    assert table.column("query_id").to_pylist() == ["q0", "q1", "q2"]
    assert table.column("team").to_pylist() == [None, None, "t"]
    assert json.loads(table.column("hits")[0].as_py())[0]["node_id"] == "a"
    assert table.schema.field("time").type == "double"
    assert parquet.read_table(feedback).num_rows == 0


def test_export_as_ubi(log: QueryLog, record: Make, tmp_path: Path) -> None:
    log.write(record("q1", served_by="finetuned", time=0.25, user="u1"))
    log.feedback("q1", "b", -1, reason="old")
    log.feedback("q1", "c", 1, kind="use", source="click")
    queries, events = export_log(log, tmp_path / "ubi.jsonl", ubi=True)
    [query] = map(json.loads, queries.read_text(encoding="utf-8").splitlines())
    assert query == {
        "application": "llama-index-ace-finetune",
        "query_id": "q1",
        "client_id": "u1",
        "user_query": "big uploads",
        "timestamp": "1970-01-01T00:00:00.250Z",
        "query_attributes": {"served_by": "finetuned", "seconds": 0.01},
        "query_response_hit_ids": ["a", "b", "c"],
    }
    judged, used = map(json.loads, events.read_text(encoding="utf-8").splitlines())
    assert (judged["action_name"], judged["message"], judged["event_attributes"]["position"]) == (
        "not_relevant", "old", {"ordinal": 2},
    )  # fmt: skip
    assert (used["action_name"], used["event_attributes"]["object"]["object_id"]) == ("click", "c")


def test_export_to_another_kind_of_file_or_without_pyarrow(
    log: QueryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AceFinetuneError, match=r"as \.jsonl or \.parquet"):
        export_log(log, tmp_path / "out.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(AceFinetuneError, match="pip install pyarrow"):
        export_log(log, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail anna.b+c@mail.example.org now", "mail <email> now"),
        ("call +49 (170) 123-45 67 today", "call <number> today"),
        ("card 4111 1111 1111 1111?", "card <number>?"),
        ("pay to DE44 5001 0517 5407 3249 31", "pay to <iban>"),
        ("from 192.168.0.17", "from <ip>"),
        ("see https://anna:pass@host/x", "see https://***@host/x"),
        ("error 404 in python 3.11.7 on 2026-11", "error 404 in python 3.11.7 on 2026-11"),
        ("retry 3 times after 60 s", "retry 3 times after 60 s"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert mask_personal_data(text) == masked
