"""QueryLog: the served queries and the feedback on their results, in one SQLite file."""

from __future__ import annotations

import random
import sqlite3
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from llama_index_ace_finetune.errors import AceFinetuneError, LogError, first_line, quoted
from llama_index_ace_finetune.production import log_database as database
from llama_index_ace_finetune.production.log_settings import LogSettings
from llama_index_ace_finetune.production.log_writer import LogWriter, logger
from llama_index_ace_finetune.production.records import FeedbackKind, FeedbackRecord, RetrievalRecord

if TYPE_CHECKING:
    from llama_index_ace_finetune.production.log_handler import LogHandler

_PAGE: Final = 1000
_FLUSH: Final = 5.0


class QueryLog:
    """The log of served queries: give it to a retriever as `query_log`, or write records of your own.

    Several processes can write to one log, and read it meanwhile. A thread writes; a query never waits for it and never
    fails because of it: records that cannot be written are dropped and counted in `dropped`. Texts of memories are not
    logged, only their ids.

    Use `QueryLog.open`.
    """

    def __init__(self, path: Path, settings: LogSettings, *, read_only: bool) -> None:
        self.path, self.settings = path, settings
        self.log_id = uuid.uuid4().hex
        """Which log the event of a search belongs to, in this process."""
        self._read_only = read_only
        self._handler: LogHandler | None = None
        self._writer = LogWriter(path, settings)
        self._close = weakref.finalize(self, self._writer.close, _FLUSH)  # also at the exit of the interpreter

    @classmethod
    def open(cls, path: str | Path, settings: LogSettings | None = None, *, read_only: bool = False) -> QueryLog:
        """Open a log; it is created if it does not exist, unless it is opened `read_only`.

        Raises:
            LogError: if the file is not a query log of this version, or cannot be opened.
        """
        path = Path(path)
        if not read_only:
            database.create_or_check(path)
        else:
            try:
                database.check(path)
            except sqlite3.Error as error:
                raise LogError(f"The query log {str(path)!r} is locked by another process; try again.") from error
        return cls(path, settings or LogSettings(), read_only=read_only)

    @property
    def written(self) -> int:
        """Number of records that this process has written."""
        return self._writer.written

    @property
    def dropped(self) -> Counter[str]:
        """Number of records that were not written, by reason; see `LogWriter`."""
        return self._writer.dropped

    def attach(self) -> None:
        """Listen to LlamaIndex's events; a retriever with this log calls it, and a second call changes nothing."""
        from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]

        from llama_index_ace_finetune.production.log_handler import LogHandler

        if self._handler is None:
            self._handler = LogHandler(self)
            get_dispatcher().add_event_handler(self._handler)

    def new_query_id(self) -> str | None:
        """Return an id for a query that is to be logged; None for one that the sampling leaves out."""
        if self.settings.sample < 1 and random.random() >= self.settings.sample:
            return None
        return uuid.uuid4().hex

    def write(self, record: RetrievalRecord | FeedbackRecord) -> bool:
        """Queue a record, without blocking; return False if it was dropped.

        Raises:
            LogError: if the log was opened `read_only`.
        """
        if self._read_only:
            raise LogError(f"The query log {str(self.path)!r} was opened read_only; open it for writing.")
        return self._writer.put(record)

    def feedback(
        self,
        query_id: str,
        node_id: str,
        value: float,
        *,
        reason: str | None = None,
        kind: FeedbackKind = "judgement",
        source: str = "user",
    ) -> None:
        """Record whether a memory is relevant to a served query; it may wait some milliseconds for the disk.

        The same feedback again changes nothing; another value of the same source replaces the first one.

        Args:
            query_id: of a result.
            node_id: of the memory; one that was not found is also possible.
            value: from -1 (not relevant) to 1 (relevant), not 0; True and False are 1 and -1.
            reason: free text.
            kind: "judgement", or "use" if the memory was used but not judged, such as clicked or cited.
            source: who says so.

        Raises:
            AceFinetuneError: for a value out of range, or an unknown kind.
            LogError: if the log does not have the query.
        """
        record = FeedbackRecord(
            query_id=query_id, node_id=node_id, value=value, reason=reason, kind=kind, source=source, time=time.time()
        )
        if not self.has_query(query_id):
            raise LogError(
                f"The query id {quoted(query_id)} is not in the query log {str(self.path)!r}; give the query_id of a "
                "result, within the days that the log keeps."
            )
        self.write(record)

    def has_query(self, query_id: str) -> bool:
        """Whether a query was logged, and not yet deleted."""

        def found() -> bool:
            return bool(self._select("SELECT 1 FROM queries WHERE query_id = ?", (query_id,)))

        return found() or (self.flush() and found())

    def records(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        run: str | None = None,
        team: str | None = None,
    ) -> Iterator[RetrievalRecord]:
        """Yield the served queries in the order of writing, including those that other processes write meanwhile.

        Damaged records are left out, and a warning is logged.

        Args:
            since: earliest time, in seconds since 1970.
            until: the records before this time.
            run: only of this run.
            team: only of this team.

        Raises:
            LogError: if the log cannot be read.
        """
        conditions = {"time >= ?": since, "time < ?": until, "run = ?": run, "team = ?": team}
        yield from self._read(database.SELECT_QUERIES, conditions, database.retrieval_of)

    def feedback_records(self, *, since: float | None = None, until: float | None = None) -> Iterator[FeedbackRecord]:
        """Yield the feedback in the order of its first writing; see `records`."""
        conditions = {"time >= ?": since, "time < ?": until}
        yield from self._read(database.SELECT_FEEDBACK, conditions, database.feedback_of)

    def counts(self) -> tuple[int, int]:
        """Return the number of queries and of feedback records."""
        self.flush()
        found = self._select("SELECT (SELECT count(*) FROM queries), (SELECT count(*) FROM feedback)")
        return int(found[0][0]), int(found[0][1])

    def flush(self, timeout: float = _FLUSH) -> bool:
        """Wait until the queued records are written; return False if that takes longer than `timeout` seconds."""
        return self._writer.flush(timeout)

    def close(self) -> None:
        """Write what is queued, end the thread and stop listening; further records are dropped."""
        if self._handler is not None:
            from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]

            handlers = get_dispatcher().event_handlers
            handlers[:] = [handler for handler in handlers if handler is not self._handler]
        self._close()

    def __enter__(self) -> QueryLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(
        self, select: str, conditions: dict[str, Any], record_of: Callable[[tuple[Any, ...]], Any]
    ) -> Iterator[Any]:
        self.flush()
        given = {condition: value for condition, value in conditions.items() if value is not None}
        where = " AND ".join(["seq > ?", *given])
        seq, damaged = 0, 0
        while rows := self._select(f"{select} WHERE {where} ORDER BY seq LIMIT {_PAGE}", (seq, *given.values())):
            for row in rows:
                try:
                    record = record_of(row)
                except (ValueError, TypeError, AceFinetuneError, RecursionError):
                    damaged += 1
                    continue
                yield record
            seq = int(rows[-1][0])
        if damaged:
            logger.warning("%d damaged record(s) of the query log %s are left out", damaged, self.path)

    def _select(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        deadline = time.monotonic() + _FLUSH
        while True:
            try:
                with self._writer.database_lock, closing(database.connect(self.path, writable=False)) as connection:
                    return connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                if database.is_locked(error) and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                raise LogError(
                    f"The query log {str(self.path)!r} cannot be read ({first_line(error)}); check the file, or try "
                    "again."
                ) from error
