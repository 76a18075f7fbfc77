"""The SQLite file of a query log: schema, versions, and records from and to rows."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from llama_index_ace_finetune.errors import AceFinetuneError, LogError, first_line
from llama_index_ace_finetune.production.records import FeedbackRecord, LoggedHit, RetrievalRecord
from llama_index_ace_finetune.utils.file_errors import UnusableFileError
from llama_index_ace_finetune.utils.open_file import open_file
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates

LOG_VERSION: Final = 1
_APPLICATION: Final = 0x41434C47  # "ACLG", in the header of the file
_SCHEMA: Final = """
CREATE TABLE queries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, query_id TEXT NOT NULL UNIQUE, time REAL NOT NULL, query TEXT NOT NULL,
    hits TEXT NOT NULL, seconds REAL NOT NULL, served_by TEXT, fingerprint TEXT, run TEXT, mode TEXT, team TEXT,
    user TEXT, extra TEXT
);
CREATE INDEX queries_by_time ON queries (time);
CREATE TABLE feedback (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, query_id TEXT NOT NULL, node_id TEXT NOT NULL, value REAL NOT NULL,
    kind TEXT NOT NULL, source TEXT NOT NULL, reason TEXT, time REAL NOT NULL,
    UNIQUE (query_id, node_id, kind, source)
);
"""
_QUERY_FIELDS: Final = ("query_id", "time", "query", "hits", "seconds", "served_by", "fingerprint", "run", "mode",
                        "team", "user", "extra")  # fmt: skip
_HIT_FIELDS: Final = ("node_id", "score", "dense_rank", "dense_score", "sparse_rank", "sparse_score", "team")
_FEEDBACK_FIELDS: Final = ("query_id", "node_id", "value", "kind", "source", "reason", "time")
_INSERT_QUERY: Final = (
    f"INSERT OR IGNORE INTO queries ({', '.join(_QUERY_FIELDS)}) VALUES ({', '.join('?' * len(_QUERY_FIELDS))})"
)
_INSERT_FEEDBACK: Final = (
    f"INSERT INTO feedback ({', '.join(_FEEDBACK_FIELDS)}) VALUES ({', '.join('?' * len(_FEEDBACK_FIELDS))}) "
    "ON CONFLICT (query_id, node_id, kind, source) DO UPDATE SET value = excluded.value, reason = excluded.reason, "
    "time = excluded.time WHERE value != excluded.value"
)
# Seconds that one call waits for another process that writes; the writer tries again, so that forks need not wait.
_BUSY: Final = 0.2
# Seconds for which opening a log waits for another process.
_OPENING: Final = 10.0

Record = RetrievalRecord | FeedbackRecord
_Found = TypeVar("_Found", RetrievalRecord, FeedbackRecord)


def create_or_check(path: Path) -> None:
    """Create the file with the schema, or check the one that exists.

    Raises:
        LogError: if it is not a query log of this version, or cannot be created.
    """
    deadline = time.monotonic() + _OPENING
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(path)
            return
        except sqlite3.Error as error:
            if is_locked(error) and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise _unusable(path, error) from error
        except OSError as error:
            raise _unusable(path, error) from error


def _create(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        check(path)
        return
    connection = connect(path, writable=True)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("PRAGMA user_version").fetchone()[0]:  # another process may have created it
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {LOG_VERSION}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def check(path: Path) -> None:
    """Raise LogError unless the file is a query log of this version."""
    try:
        with open_file(path) as handle:
            header = handle.read(16)
    except UnusableFileError as error:
        raise LogError(f"The query log {str(path)!r} {error}; give the path of a log.") from error
    if header != b"SQLite format 3\0":
        raise LogError(f"The file {str(path)!r} is not a query log; give the path of one.")
    connection = None
    try:
        connection = connect(path, writable=False)
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        if is_locked(error):
            raise
        raise _unusable(path, error) from error
    finally:
        if connection is not None:
            connection.close()
    if application == version == 0:
        raise sqlite3.OperationalError("database is locked")  # another process is creating it
    if application != _APPLICATION:
        raise LogError(f"The database {str(path)!r} is not a query log; give the path of another file.")
    if version != LOG_VERSION:
        raise LogError(
            f"The query log {str(path)!r} has format version {version} and this package reads {LOG_VERSION}; open it "
            "with the version of the package that wrote it, or start a new log."
        )


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open the file; every statement is a separate transaction unless one is begun."""
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if writable else 'ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY, isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda stored: stored.decode("utf-8", "replace")
    connection.execute("PRAGMA trusted_schema = OFF")
    if writable:
        connection.execute("PRAGMA synchronous = NORMAL")  # in WAL, a power cut loses the last records, nothing else
    return connection


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another process holds the database."""
    return "locked" in str(error) or "busy" in str(error)


def _unusable(path: Path, error: Exception) -> AceFinetuneError:
    reason = getattr(error, "strerror", None) or first_line(error)
    return LogError(f"The query log {str(path)!r} cannot be opened ({reason}); check the path and its permissions.")


def statement(record: Record) -> tuple[str, tuple[Any, ...]]:
    """Return the SQL that writes a record, and its values; raises ValueError or TypeError for one that is not JSON."""
    if isinstance(record, FeedbackRecord):
        values = {name: _text(getattr(record, name)) for name in _FEEDBACK_FIELDS}
        return _INSERT_FEEDBACK, tuple(values.values())
    values = {name: _text(getattr(record, name)) for name in _QUERY_FIELDS if name not in ("hits", "extra")}
    values["hits"] = _json([[getattr(hit, name) for name in _HIT_FIELDS] for hit in record.hits])
    values["extra"] = _json(dict(record.extra)) if record.extra else None
    return _INSERT_QUERY, tuple(values[name] for name in _QUERY_FIELDS)


def _text(value: Any) -> Any:
    return replace_lone_surrogates(value) if isinstance(value, str) else value


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


SELECT_QUERIES: Final = f"SELECT seq, {', '.join(_QUERY_FIELDS)} FROM queries"
SELECT_FEEDBACK: Final = f"SELECT seq, {', '.join(_FEEDBACK_FIELDS)} FROM feedback"


def retrieval_of(row: Sequence[Any]) -> RetrievalRecord:
    """Return the record of a row of `SELECT_QUERIES`; raises ValueError or TypeError for a damaged one."""
    values: dict[str, Any] = dict(zip(_QUERY_FIELDS, row[1:], strict=True))
    hits = [LoggedHit(rank=rank, **_hit(found)) for rank, found in enumerate(json.loads(values.pop("hits")), start=1)]
    extra = json.loads(values.pop("extra") or "{}")
    if not isinstance(extra, Mapping):
        raise ValueError("extra is not an object")
    _require_types(values, numbers=("time", "seconds"))
    return RetrievalRecord(hits=tuple(hits), extra=extra, **values)


def feedback_of(row: Sequence[Any]) -> FeedbackRecord:
    """Return the record of a row of `SELECT_FEEDBACK`; raises ValueError, TypeError or AceFinetuneError if damaged."""
    values: dict[str, Any] = dict(zip(_FEEDBACK_FIELDS, row[1:], strict=True))
    _require_types(values, numbers=("value", "time"))
    return FeedbackRecord(**values)


def _hit(found: Any) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(_HIT_FIELDS, found, strict=True))
    _require_types(values, numbers=("score", "dense_score", "sparse_score", "dense_rank", "sparse_rank"))
    if values["node_id"] is None:
        raise ValueError("a hit has no node id")
    return values


def _require_types(values: Mapping[str, Any], *, numbers: Sequence[str]) -> None:
    for name, value in values.items():
        expected = (int, float) if name in numbers else (str,)
        if value is not None and (isinstance(value, bool) or not isinstance(value, expected)):
            raise ValueError(f"{name} is a {type(value).__name__}")


def delete_before(connection: sqlite3.Connection, cutoff: float) -> None:
    """Delete the queries that are older than a time in seconds since 1970, and their feedback."""
    old = "SELECT query_id FROM queries WHERE time < ?"
    connection.execute(f"DELETE FROM feedback WHERE query_id IN ({old})", (cutoff,))
    connection.execute("DELETE FROM queries WHERE time < ?", (cutoff,))
    connection.execute("PRAGMA incremental_vacuum")


def delete_oldest(connection: sqlite3.Connection, max_bytes: int) -> None:
    """While the database is larger, delete the oldest tenth of the queries, those without feedback first."""
    while used_bytes(connection) > max_bytes:
        count = connection.execute("SELECT count(*) FROM queries").fetchone()[0]
        if not count:
            return
        oldest = (
            "SELECT q.seq FROM queries q ORDER BY "
            "EXISTS (SELECT 1 FROM feedback f WHERE f.query_id = q.query_id), q.seq LIMIT ?"
        )
        connection.execute(f"DELETE FROM queries WHERE seq IN ({oldest})", (max(1, count // 10),))
        connection.execute("DELETE FROM feedback WHERE query_id NOT IN (SELECT query_id FROM queries)")
        connection.execute("PRAGMA incremental_vacuum")


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the pages that hold data."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
