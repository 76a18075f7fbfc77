"""Table: rows of named columns, whatever file they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

from llama_index_ace_finetune.datasets.source_location import AnyLocation, SourceLocation

Row: TypeAlias = tuple[AnyLocation, Mapping[str, Any]]


class Table:
    """The rows of a CSV, TSV, JSON, JSON Lines or Parquet file or of a `datasets.Dataset`, in their order.

    Attributes:
        has_rows: whether there is any row.
        first: the first row; empty if there is none.
        is_json_lines: the file is JSON Lines, whose rows may differ in their keys.
    """

    def __init__(self, rows: Iterable[Row], file: str, *, is_json_lines: bool = False) -> None:
        """Read the first row; the others are read on demand. Raises DatasetError."""
        rest = iter(rows)
        head = next(rest, None)
        self._file = file
        self._rows = rest if head is None else chain([head], rest)
        self.has_rows = head is not None
        self.first: Mapping[str, Any] = {} if head is None else head[1]
        self.is_json_lines = is_json_lines

    def stream(self) -> Iterator[Row]:
        """Yield the rows without keeping them: only once, and instead of `rows`."""
        yield from self._rows

    @cached_property
    def rows(self) -> list[Row]:
        """All rows; raises DatasetError."""
        return list(self._rows)

    @cached_property
    def columns(self) -> list[str]:
        """The columns of all rows, in the order of their first use."""
        return list(dict.fromkeys(column for _, row in self.rows for column in row))

    @property
    def location(self) -> SourceLocation:
        """The file as a whole, for errors."""
        return SourceLocation(self.rows[0][0].file if self.rows else self._file)
