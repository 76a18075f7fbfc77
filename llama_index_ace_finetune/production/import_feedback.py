"""import_feedback: feedback from a CSV or JSON Lines file into a query log."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError, first_line
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import FeedbackRecord
from llama_index_ace_finetune.utils.file_errors import UnusableFileError
from llama_index_ace_finetune.utils.open_file import open_file

_FIELDS: Final = frozenset({"query_id", "node_id", "value", "kind", "source", "reason", "time"})
_REQUIRED: Final = ("query_id", "node_id", "value")
_EXAMPLES: Final = 10
IMPORT: Final = "import"
"""Source of imported feedback that does not name another."""


@dataclass
class ImportedFeedback:
    """How many rows were imported, repeated, or left out, and the reasons for the first that were."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def leave_out(self, line: int, reason: str) -> None:
        """Count a row that cannot be used."""
        self.counts["left_out"] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"line {line}: {reason}")


def import_feedback(log: QueryLog, path: str | Path, *, source: str = IMPORT) -> ImportedFeedback:
    """Write the rows of a file into a log: query_id, node_id, value, and optionally kind, source, reason and time.

    Rows that cannot be used are left out and counted: a query that the log does not have, a value out of range. A row
    that the log has already changes nothing; another value of the same source replaces the first one.

    Args:
        log: open for writing.
        path: a `.csv` or `.jsonl` file.
        source: of rows that do not name one.

    Raises:
        DatasetError: if the file cannot be read, lacks a column, or no row of it can be used.
    """
    path, result = Path(path), ImportedFeedback()
    held = {(one.query_id, one.node_id, one.kind, one.source): one.value for one in log.feedback_records()}
    known: dict[str, bool] = {}
    for line, row in _rows(path):
        try:
            record = _record(row, source)
            if record.query_id not in known:
                known[record.query_id] = log.has_query(record.query_id)
            if not known[record.query_id]:
                raise AceFinetuneError(f"the query id {record.query_id!r:.80} is not in the log")
        except (AceFinetuneError, ValueError, TypeError) as error:
            result.leave_out(line, first_line(error))
            continue
        key = (record.query_id, record.node_id, record.kind, record.source)
        if held.get(key) == record.value:
            result.counts["repeated"] += 1
            continue
        result.counts["changed" if key in held else "imported"] += 1
        held[key] = record.value
        while not log.write(record):  # the queue is full
            if not log.flush() or log.dropped["closed"]:
                raise DatasetError(f"The query log {str(log.path)!r} cannot be written; try the import again.")
    if not log.flush() or log.dropped.total() > log.dropped["queue full"]:
        raise DatasetError(f"The query log {str(log.path)!r} could not be written; free its disk, and import again.")
    if not result.counts.total():
        raise DatasetError(f"{path}: the file has no row of feedback; give one with {', '.join(_REQUIRED)}.")
    if set(result.counts) == {"left_out"}:
        raise DatasetError(f"{path}, {result.examples[0]}; correct the file: none of its rows can be used.")
    return result


def _record(row: Any, source: str) -> FeedbackRecord:
    if not isinstance(row, Mapping):
        raise ValueError("the row is not an object")
    found = {str(name).strip(): value for name, value in row.items() if name is not None and value not in (None, "")}
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise ValueError(f"the row has no {missing[0]}; give {', '.join(_REQUIRED)}")
    values = {name: found[name] for name in found if name in _FIELDS}
    for name in ("query_id", "node_id"):
        values[name] = str(values[name])
    for name in ("value", "time"):
        if isinstance(values.get(name), str):
            values[name] = float(values[name])
    return FeedbackRecord(**{"source": source, "time": time.time(), **values})


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise DatasetError(f"{path}: feedback is read from .csv or .jsonl; give such a file.")
    try:
        with TextIOWrapper(open_file(path), encoding="utf-8-sig", newline="" if suffix == ".csv" else None) as handle:
            if suffix == ".csv":
                rows = csv.DictReader(handle)
                for row in rows:
                    yield rows.line_num, row
            else:
                for line, text in enumerate(handle, start=1):
                    if text.strip():
                        yield line, _object(text)
    except (UnusableFileError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: the file cannot be read ({error}); give feedback as CSV or JSON Lines.") from error


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
