"""Rows of CSV, TSV and similar files; delimiter and quoting are detected from the content."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers.column_names import squash
from llama_index_ace_finetune.datasets.readers.table import Row
from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.datasets.text_files import MAX_LINE_BYTES, empty_file, iterate_lines
from llama_index_ace_finetune.errors import DatasetError

_DELIMITERS = (",", ";", "\t", "|")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space"}
_SAMPLE = 20
_CLOSED = re.compile(r'"(?:[^"]|"")*"')
_MAX_LINES_REREAD = 2_000_000
"""Limit of lines that are read twice because of unclosed quotes; after it, quotes are read as text."""

Record = tuple[int, list[str]]


@dataclass(frozen=True)
class _Lines:
    """The lines of a table without leading blank ones, the number of the first, and the delimiter."""

    texts: list[str]
    first: int
    delimiter: str


def iterate_delimited(
    path: Path, usual: str, builder: DatasetBuilder, is_header: Callable[[Sequence[str]], bool]
) -> Iterator[Row]:
    """Yield (place, row) of a table with a header; rows that cannot be read are counted by the builder.

    A first line `sep=;` names the delimiter; otherwise it is the one that gives a known header, preferably `usual`.
    With a comma, semicolon or bar, quoted cells may hold delimiters and line breaks; with tabs only if the file shows
    it. Empty columns without a name, and empty cells beyond the header, are dropped; a short row lacks its last
    cells.

    Raises DatasetError for an empty file, or for two columns of the same name.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))  # its default is 131,072 characters
    file = str(path)
    lines = _split_off(path, [line for _, line in iterate_lines(path)], usual, is_header)
    if lines.delimiter != usual:
        name = _NAMES.get(lines.delimiter, repr(lines.delimiter))
        builder.ledger.note("delimiter_found", SourceLocation(file, lines.first), f"{name} between the columns")
    records = _records(lines, file, builder)
    number, cells = next(records)
    header = [cell.strip() for cell in cells]
    body = list(records)
    columns = _named_columns(header, body, SourceLocation(file, number), builder)
    for number, cells in body:
        location = SourceLocation(file, number)
        if any(cell.strip() for cell in cells[len(header) :]):
            builder.leave_out(
                DatasetError(
                    f"{location}: the row has {len(cells)} cell(s) and the header {len(header)}; correct the row."
                ),
                location,
            )
        else:
            yield location, {name: cells[column] if column < len(cells) else None for column, name in columns}


def _split_off(path: Path, texts: list[str], usual: str, is_header: Callable[[Sequence[str]], bool]) -> _Lines:
    start = next((number for number, text in enumerate(texts) if text.strip()), None)
    if start is None:
        raise empty_file(path)
    if found := re.fullmatch(r'"?sep=(.)"?', texts[start], re.IGNORECASE):
        body = texts[start + 1 :]
        if not any(text.strip() for text in body):
            raise empty_file(path)
        skipped = next(number for number, text in enumerate(body) if text.strip())
        return _Lines(body[skipped:], start + skipped + 2, found[1])
    texts = texts[start:]
    candidates = dict.fromkeys((usual, *_DELIMITERS))

    def fitness(delimiter: str) -> tuple[bool, bool, int]:
        header = _cells(texts[0], delimiter)
        widths = Counter(len(_cells(text, delimiter)) for text in texts[1 : _SAMPLE + 1] if text.strip())
        steady = not widths or widths.most_common(1)[0][0] == len(header)
        return is_header([cell.strip() for cell in header]), len(header) > 1 and steady, len(header)

    # Of equally good ones, max returns the first, which is the usual one.
    best = max(candidates, key=lambda delimiter: fitness(delimiter)[:2])
    return _Lines(texts, start + 1, best)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return line.split(delimiter)


def _records(lines: _Lines, file: str, builder: DatasetBuilder) -> Iterator[Record]:
    """Yield (line number, cells) in the interpretation that fits better: quoted cells, or quotes as text."""
    plain = [
        (lines.first + number, text.split(lines.delimiter)) for number, text in enumerate(lines.texts) if text.strip()
    ]
    if not any('"' in text for text in lines.texts):
        yield from plain
        return
    quoted, kept = _quoted(lines)
    use_quotes = _has_quotes(lines.delimiter, plain, quoted)
    if not use_quotes and any(cell.startswith('"') for _, cells in plain for cell in cells):
        builder.ledger.note(
            "quotes_kept", SourceLocation(file, lines.first), "quotation marks are read as part of the text"
        )
    elif use_quotes:
        for number in kept:
            builder.ledger.note("quotes_kept", SourceLocation(file, number), "an unmatched quotation mark is kept")
    yield from quoted if use_quotes else plain


def _has_quotes(delimiter: str, plain: Sequence[Record], quoted: Sequence[Record]) -> bool:
    plain_misfits, quoted_misfits = _misfits(plain), _misfits(quoted)
    if delimiter != "\t":
        return quoted_misfits <= plain_misfits
    if plain_misfits:
        return quoted_misfits < plain_misfits
    cells = [cell for _, row in plain for cell in row if cell.startswith('"')]
    if not cells or not all(_CLOSED.fullmatch(cell) for cell in cells):
        return False
    if any('""' in cell[1:-1] for cell in cells):
        return True
    return len(plain) > 1 and any(
        all(_CLOSED.fullmatch(row[column]) for _, row in plain[1:] if column < len(row) and row[column])
        and any(column < len(row) and row[column] for _, row in plain[1:])
        for column in range(len(plain[0][1]))
    )


def _misfits(records: Sequence[Record]) -> int:
    width = _width(records[0][1])
    return sum(not _fits(cells, width) for _, cells in records)


def _fits(cells: Sequence[str], width: int) -> bool:
    return len(cells) >= width and _width(cells) <= width


def _width(cells: Sequence[str]) -> int:
    """Return the number of cells up to the last that is not blank."""
    return max((number for number, cell in enumerate(cells, 1) if cell.strip()), default=1)


def _quoted(lines: _Lines) -> tuple[list[Record], list[int]]:
    """Read with quoted cells; a record that does not fit is read again, its first line with quotes as text.

    Returns the records, and the lines whose quotes are read as text.
    """
    texts, records, kept = lines.texts, list[Record](), list[int]()
    position = again = width = 0
    while position < len(texts) and again <= _MAX_LINES_REREAD:
        for start, end, cells in _strict_records(texts, position, lines.delimiter):
            plain = texts[start].split(lines.delimiter)
            overrun = (
                cells is not None and end - start > 1 and width and not _fits(cells, width) and _fits(plain, width)
            )
            if cells is None or overrun:
                kept.append(lines.first + start)
                records.append((lines.first + start, plain))
                again += end - start
                position = start + 1
                break
            if any(cell.strip() for cell in cells):
                width = width or _width(cells)
                records.append((lines.first + start, cells))
            position = end
    rest = ((lines.first + n, texts[n].split(lines.delimiter)) for n in range(position, len(texts)) if texts[n].strip())
    return [*records, *rest], kept


def _strict_records(texts: Sequence[str], first: int, delimiter: str) -> Iterator[tuple[int, int, list[str] | None]]:
    """Yield (first line, line after the last, cells) of each record; cells are None if it cannot be parsed."""
    reader = csv.reader((f"{texts[n]}\n" for n in range(first, len(texts))), delimiter=delimiter, strict=True)
    start = first
    while start < len(texts):
        try:
            cells: list[str] | None = next(reader, [])
        except csv.Error:
            cells = None
        end = first + reader.line_num
        yield start, end, cells
        start = end


def _named_columns(
    header: Sequence[str], body: Sequence[Record], location: SourceLocation, builder: DatasetBuilder
) -> list[tuple[int, str]]:
    """Return (column, name) of the named columns."""
    columns: list[tuple[int, str]] = []
    seen: set[str] = set()
    for column, name in enumerate(header):
        if not name:
            if any(column < len(cells) and cells[column].strip() for _, cells in body):
                builder.ledger.note("column_without_name_dropped", location, f"column {column + 1}")
            continue
        if squash(name) in seen and squash(name):
            raise DatasetError(f"{location}: two columns have the same name ({name!r:.60}); rename one.")
        seen.add(squash(name))
        columns.append((column, name))
    return columns
