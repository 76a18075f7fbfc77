"""Rows of CSV, TSV, JSON Lines, JSON, Parquet and `datasets.Dataset`, for the reader of pairs."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.place import Place
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument, expect_object
from llama_index_ace_finetune.datasets.readers.pairs import Row, find_columns
from llama_index_ace_finetune.datasets.text_files import iterate_lines
from llama_index_ace_finetune.errors import DatasetError

_BATCH = 4096


def iterate_delimited(path: Path, delimiter: str) -> Iterator[Row]:
    """Yield (place, row) of a CSV or TSV file with a header; raises DatasetError."""
    file = str(path)
    lines = (f"{line}\n" for _, line in iterate_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DatasetError(f"{Place(file, start)}: the row cannot be read ({error}); correct it.") from error
        if cells is None:
            break
        if not cells or (len(cells) == 1 and not cells[0].strip()):  # a blank line
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if len(set(header)) != len(header):
                raise DatasetError(f"{Place(file, start)}: two columns have the same name; rename one.")
            find_columns(header, Place(file, start))
        elif len(cells) != len(header):
            raise DatasetError(
                f"{Place(file, start)}: the row has {len(cells)} cell(s) and the header {len(header)}; correct the row."
            )
        else:
            yield Place(file, start), dict(zip(header, cells, strict=True))
    if header is None:
        raise DatasetError(f"{path}: the file is empty; give a file with data in it.")


def iterate_json_list(document: JsonDocument) -> Iterator[Row]:
    """Yield (place, row) of a JSON list of objects; raises DatasetError."""
    for index, value in enumerate(document.value):
        place = document.root.at(index)
        yield place, expect_object(value, place, "the row")


def iterate_parquet(path: Path) -> Iterator[Row]:
    """Yield (place, row) of a Parquet file; raises DatasetError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DatasetError(f"{path}: reading Parquet needs pyarrow; run `pip install pyarrow`.") from error
    number = 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield Place(str(path), 0, f"row {number}"), row
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: there is no such file; check the path.") from error
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise DatasetError(
            f"{path}: the Parquet file is damaged after row {number} ({reason}); make it again."
        ) from error


def is_arrow_dataset(source: object) -> bool:
    """Say whether the source is a `datasets.Dataset` or `DatasetDict`, without importing the library."""
    return type(source).__module__.partition(".")[0] == "datasets" and hasattr(source, "column_names")


def iterate_arrow_dataset(dataset: Any) -> Iterator[Row]:
    """Yield (place, row) of a `datasets.Dataset`; raises DatasetError for a dictionary of several."""
    if isinstance(dataset, dict):
        raise DatasetError(f"DatasetDict: choose one of its splits ({', '.join(map(str, dataset))}) and pass that.")
    number = 0
    for batch in dataset.with_format(None).iter(batch_size=_BATCH):
        for cells in zip(*batch.values(), strict=True):
            number += 1
            yield Place("datasets.Dataset", 0, f"row {number}"), dict(zip(batch, cells, strict=True))
