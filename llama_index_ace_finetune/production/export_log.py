"""export_log: a query log as JSON Lines, Parquet, or in the schema of User Behavior Insights (UBI)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import FeedbackRecord, RetrievalRecord
from llama_index_ace_finetune.utils.atomic import new_file

_APPLICATION: Final = "llama-index-ace-finetune"
_ROWS: Final = 10_000


def export_log(log: QueryLog, out: str | Path, *, ubi: bool = False) -> tuple[Path, Path]:
    """Write the queries of a log to `out` and its feedback to a file beside it, and return both paths.

    `out` ends in `.jsonl` or `.parquet`; the other file is `NAME.feedback.SUFFIX`. With `ubi`, they are the queries and
    events of UBI 1.3 (https://www.ubisearch.dev).

    Raises:
        AceFinetuneError: for another suffix, or for Parquet without pyarrow.
        LogError: if the log cannot be read.
    """
    out = Path(out)
    write = {".jsonl": _write_json_lines, ".parquet": _write_parquet}.get(out.suffix.lower())
    if write is None:
        raise AceFinetuneError(f"A log is exported as .jsonl or .parquet, and {str(out)!r} is neither; rename it.")
    events = out.with_name(f"{out.stem}.feedback{out.suffix}")
    ranks = {}
    if ubi:
        judged = {one.query_id for one in log.feedback_records()}
        ranks = {
            (record.query_id, hit.node_id): hit.rank
            for record in log.records()
            if record.query_id in judged
            for hit in record.hits
        }
    write((_ubi_query(one) if ubi else asdict(one) for one in log.records()), out)
    write((_ubi_event(one, ranks) if ubi else asdict(one) for one in log.feedback_records()), events)
    return out, events


def _ubi_query(record: RetrievalRecord) -> dict[str, Any]:
    names = ("served_by", "fingerprint", "run", "mode", "team", "seconds")
    attributes = {name: value for name in names if (value := getattr(record, name)) is not None}
    return {
        "application": _APPLICATION,
        "query_id": record.query_id,
        **({"client_id": record.user} if record.user else {}),
        "user_query": record.query,
        "timestamp": _timestamp(record.time),
        "query_attributes": attributes,
        "query_response_hit_ids": [hit.node_id for hit in record.hits],
    }


def _ubi_event(record: FeedbackRecord, ranks: dict[tuple[str, str], int]) -> dict[str, Any]:
    rank = ranks.get((record.query_id, record.node_id))
    about: dict[str, Any] = {"object": {"object_id": record.node_id, "object_id_field": "node_id"}}
    about["position"] = {"ordinal": rank or 0}  # required by the schema; 0: it was not among the results
    judged = "relevant" if record.value > 0 else "not_relevant"
    return {
        "application": _APPLICATION,
        "action_name": judged if record.kind == "judgement" else record.source,
        "query_id": record.query_id,
        "timestamp": _timestamp(record.time),
        "message_type": record.kind.upper(),
        **({"message": record.reason[:1024]} if record.reason else {}),
        "event_attributes": {**about, "value": record.value},
    }


def _timestamp(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # a damaged time
        return "1970-01-01T00:00:00.000Z"


def _write_json_lines(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with new_file(path) as handle:
        for row in rows:
            handle.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode("utf-8", "replace"))


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path) -> None:
    """Write rows in groups; nested values are JSON texts, so that every log has the same columns."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise AceFinetuneError("A Parquet file needs pyarrow; run `pip install pyarrow`, or write .jsonl.") from error
    with new_file(path) as handle:
        writer, group = None, []
        for row in rows:
            group.append({name: _flat(value) for name, value in row.items()})
            if len(group) >= _ROWS or writer is None:
                writer = writer or parquet.ParquetWriter(handle, _schema(pa, group[0]))
                writer.write_table(pa.Table.from_pylist(group, schema=writer.schema))
                group = []
        if writer is None:
            parquet.write_table(pa.table({}), handle)
            return
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=writer.schema))
        writer.close()


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else value


def _schema(pa: Any, row: dict[str, Any]) -> Any:
    numbers = {name for name in ("time", "seconds", "value") if isinstance(row.get(name), float)}
    return pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in row])
