"""Qrels files: BEIR's three columns with a header, TREC's four without one, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers.column_names import MEMORY_ID, QUERY_ID, squash
from llama_index_ace_finetune.datasets.readers.relevance import as_number
from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.datasets.text_files import iterate_lines
from llama_index_ace_finetune.errors import DatasetError

_QUERIES = frozenset(map(squash, (*QUERY_ID, "query", "topic", "topic_id", "q")))
_MEMORIES = frozenset(
    map(squash, (*MEMORY_ID, "doc_id", "document_id", "doc", "docno", "document", "corpus", "did", "passage", "memory"))
)
_SCORES = frozenset(
    map(squash, ("score", "relevance", "rel", "grade", "label", "relevant", "judgment", "judgement", "rating", "qrel"))
)
_SAMPLE = 200


@dataclass(frozen=True)
class _Columns:
    """The columns of query, memory and grade; without a grade column, each row has grade 1."""

    query: int
    memory: int
    grade: int | None

    @property
    def min_cells(self) -> int:
        return 1 + max(self.query, self.memory, self.grade or 0)


def read_qrels(path: Path, builder: DatasetBuilder) -> None:
    """Add the judgements of a file, which may be gzipped, after the queries and memories were added.

    Columns are separated by tabs, commas, semicolons or spaces. A header names them; without one they are found by
    the known ids or, if no id is known, are query, memory, grade (or TREC's query, iteration, memory, grade). Further
    columns are ignored and noted. Rows that cannot be used are counted as `row_left_out`.

    Raises DatasetError for a file that cannot be read, or without a row that can be used.
    """
    file = str(path)
    lines = [(number, line) for number, line in iterate_lines(path) if line.strip()]
    if not lines:
        return
    delimiter = next((mark for mark in "\t,;" if mark in lines[0][1]), None)
    rows = [(number, [cell.strip().strip('"') for cell in line.split(delimiter)]) for number, line in lines]
    location = SourceLocation(file, rows[0][0])
    header = rows[0][1]
    columns = _by_name(header)
    if columns is not None:
        further = [name for n, name in enumerate(header) if n not in (columns.query, columns.memory, columns.grade)]
        if further:
            builder.ledger.note("further_columns_ignored", location, ", ".join(further))
        rows = rows[1:]
    else:
        columns = _by_content(rows, builder)
        if columns.grade is not None and len(header) >= columns.min_cells and as_number(header[columns.grade]) is None:
            rows = rows[1:]  # a header of other names
        if (columns.query, columns.memory) not in ((0, 1), (0, 2)):
            order = f"queries in column {columns.query + 1}, memories in column {columns.memory + 1}"
            builder.ledger.note("qrels_columns_found", location, order)
    errors: list[DatasetError] = []
    for number, cells in rows:
        location = SourceLocation(file, number)
        try:
            builder.judge(*_parse_row(cells, columns, location), location)
        except DatasetError as error:
            errors.append(error)
            builder.leave_out(error, location)
    if rows and len(errors) == len(rows):
        raise errors[0]


def _parse_row(cells: Sequence[str], columns: _Columns, location: SourceLocation) -> tuple[str, str, float]:
    if len(cells) < columns.min_cells:
        raise DatasetError(
            f"{location}: the row has {len(cells)} column(s); write query id, memory id and score, separated by tabs."
        )
    grade = 1.0 if columns.grade is None else as_number(cells[columns.grade])
    if grade is None:
        raise DatasetError(
            f"{location}: the score {cells[columns.grade or 0]!r:.80} is not a number; give a grade like 1."
        )
    return cells[columns.query], cells[columns.memory], grade


def _by_name(header: Sequence[str]) -> _Columns | None:
    """Return the columns that a header names, None if it is not a header."""
    squashed = [squash(cell) for cell in header]

    def column_of(known: frozenset[str]) -> int | None:
        return next((number for number, name in enumerate(squashed) if name in known), None)

    query, memory, grade = column_of(_QUERIES), column_of(_MEMORIES), column_of(_SCORES)
    return None if query is None or memory is None else _Columns(query, memory, grade)


def _by_content(rows: Sequence[tuple[int, list[str]]], builder: DatasetBuilder) -> _Columns:
    """Return the columns whose cells are known ids; of equally good ones, the usual order."""
    sample = [cells for _, cells in rows[:_SAMPLE]]
    width = max(set(map(len, sample)), key=[len(cells) for cells in sample].count)
    usual = [(0, 2, 3), (0, 1, 2), (2, 0, 3), (1, 0, 2)] if width == 4 else [(0, 1, 2), (1, 0, 2), (1, 2, 0), (2, 1, 0)]
    if width < 3:
        return _Columns(0, 1, 2)

    def known(order: tuple[int, int, int]) -> tuple[int, int]:
        fitting = [cells for cells in sample if len(cells) > max(order)]
        ids = sum(cells[order[0]] in builder.queries and cells[order[1]] in builder.memories for cells in fitting)
        return ids, sum(as_number(cells[order[2]]) is not None for cells in fitting)

    return _Columns(*max(usual, key=known))
