"""LogWriter: a thread that writes queued records to the database of a query log."""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune.production import log_database as database
from llama_index_ace_finetune.production.log_database import Record
from llama_index_ace_finetune.production.log_settings import LogSettings
from llama_index_ace_finetune.production.records import RetrievalRecord
from llama_index_ace_finetune.utils.disk_full import is_disk_full
from llama_index_ace_finetune.utils.fork import fork_safe_lock, lock_held_over_fork, renew_after_fork

logger = logging.getLogger(__name__)

# Seconds for which records are collected before they are written in one transaction; a killed process loses these.
_COLLECT: Final = 0.05
_BATCH: Final = 500
_RETRY: Final = 0.1
# Records between two deletions of old ones.
_PRUNE_EVERY: Final = 1000
_WARN_EVERY: Final = 60.0
_DAY: Final = 86_400.0


class LogWriter:
    """Writes records in the background; `put` never blocks and never raises.

    `written` counts the records that were committed, `dropped` the others by reason: "queue full", "disk full",
    "locked" (another process held the database until `close`), "redaction failed", "closed" or "error".
    """

    def __init__(self, path: Path, settings: LogSettings) -> None:
        self.written = 0
        self.dropped: Counter[str] = Counter()
        self._path, self._settings = path, settings
        # SQLite has internal locks, which a fork in the middle of a call would leave held in the child.
        self.database_lock = lock_held_over_fork()
        self._lock = fork_safe_lock()
        self._inherited: list[Any] = []
        self._warned: dict[str, float] = {}
        self._start()
        renew_after_fork(self, LogWriter._renew)

    def _start(self) -> None:
        self._queue: queue.Queue[Record | threading.Event] = queue.Queue(self._settings.queue_size)
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._deadline: float | None = None
        self._until_pruning = 0

    def _renew(self) -> None:
        # A connection must not be used or closed in a forked child; the parent writes what was queued.
        self._inherited.append((self._connection, self._queue))
        self._start()

    def put(self, record: Record) -> bool:
        """Queue a record; return False if it was dropped."""
        if self._deadline is not None:
            return self._drop("closed")
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            return self._drop("queue full")
        if self._thread is None:
            self._run_thread()
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until all that was queued is written or dropped; return False after `timeout` seconds."""
        if self._thread is None or not self._thread.is_alive():
            return True
        done, deadline = threading.Event(), time.monotonic() + timeout
        try:
            self._queue.put(done, timeout=timeout)
        except queue.Full:
            return False
        return done.wait(max(0.0, deadline - time.monotonic()))

    def close(self, timeout: float) -> None:
        """Write what is queued, for at most `timeout` seconds; further records are dropped."""
        if self._deadline is not None:
            return
        self._deadline = time.monotonic() + timeout
        thread = self._thread
        if thread is not None and thread.is_alive():
            thread.join(timeout + 2 * _RETRY + 1)

    def _run_thread(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ace-finetune-query-log", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        waiting = self._queue
        while True:
            try:
                first = waiting.get(timeout=_RETRY)
            except queue.Empty:
                if self._deadline is not None:
                    break
                continue
            if not isinstance(first, threading.Event) and self._deadline is None:
                time.sleep(_COLLECT)
            batch = [first]
            while len(batch) < _BATCH and not waiting.empty():
                batch.append(waiting.get_nowait())
            try:
                self._write([item for item in batch if not isinstance(item, threading.Event)])
            except Exception as error:  # the thread must survive whatever a redaction or a disk does
                self._drop("error", len(batch), error)
            for item in batch:
                if isinstance(item, threading.Event):
                    item.set()
        self._disconnect()

    def _disconnect(self) -> None:
        with self.database_lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def _write(self, records: list[Record]) -> None:
        statements = [found for record in records if (found := self._statement(record)) is not None]
        while statements:
            try:
                with self.database_lock:
                    self._transaction(statements)
                self.written += len(statements)
                return
            except sqlite3.Error as error:
                late = self._deadline is not None and time.monotonic() > self._deadline
                if database.is_locked(error) and not late:
                    time.sleep(_RETRY)
                    continue
                full = is_disk_full(error)
                reason = "disk full" if full else "locked" if database.is_locked(error) else "error"
                self._drop(reason, len(statements), error)
                self._disconnect()
                return

    def _statement(self, record: Record) -> tuple[str, tuple[Any, ...]] | None:
        redact = self._settings.redact
        try:
            if redact is not None and isinstance(record, RetrievalRecord):
                record = replace(record, query=redact(record.query))
            elif redact is not None and not isinstance(record, RetrievalRecord) and record.reason is not None:
                record = replace(record, reason=redact(record.reason))
        except Exception as error:  # of the user's function; its text must not be written or shown
            self._drop("redaction failed", 1, type(error).__name__)
            return None
        try:
            return database.statement(record)
        except (TypeError, ValueError) as error:
            self._drop("error", 1, error)
            return None

    def _transaction(self, statements: list[tuple[str, tuple[Any, ...]]]) -> None:
        if self._connection is None:
            self._connection = database.connect(self._path, writable=True)
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for sql, values in statements:
                connection.execute(sql, values)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
            raise
        self._until_pruning -= len(statements)
        if self._until_pruning <= 0:
            self._until_pruning = _PRUNE_EVERY
            self._prune(connection)

    def _prune(self, connection: sqlite3.Connection) -> None:
        try:
            if self._settings.keep_days is not None:
                database.delete_before(connection, time.time() - self._settings.keep_days * _DAY)
            if self._settings.max_bytes is not None:
                database.delete_oldest(connection, self._settings.max_bytes)
        except sqlite3.Error as error:  # what was to be deleted is deleted next time
            logger.warning("old records of the query log %s were not deleted: %s", self._path, error)

    def _drop(self, reason: str, count: int = 1, error: object = "") -> bool:
        with self._lock:
            self.dropped[reason] += count
            now = time.monotonic()
            warn = now - self._warned.get(reason, -_WARN_EVERY) >= _WARN_EVERY
            if warn:
                self._warned[reason] = now
        if warn:
            detail = f" ({error})" if str(error) else ""
            logger.warning("the query log %s drops records: %s%s", self._path, reason, detail)
        return False
