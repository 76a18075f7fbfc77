"""Rows of a Parquet file or a `datasets.Dataset`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.readers.table import Row
from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.file_errors import UnusableFileError
from llama_index_ace_finetune.utils.open_file import open_file

_BATCH = 4096
_MAX_RATIO = 100
_ALWAYS_ALLOWED_BYTES = 32 * 2**20


def iterate_parquet(path: Path) -> Iterator[Row]:
    """Yield (place, row) of a Parquet file; raises DatasetError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DatasetError(f"{path}: reading Parquet needs pyarrow; run `pip install pyarrow`.") from error
    number = 0
    try:
        with open_file(path) as handle, pq.ParquetFile(handle) as table:
            _check_claims(table.metadata, os.fstat(handle.fileno()).st_size)
            for batch in table.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield SourceLocation(str(path), 0, f"row {number}"), row
    except UnusableFileError as error:
        raise DatasetError(f"{path}: this {error}; give the file itself, and see that it may be read.") from error
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise DatasetError(
            f"{path}: the Parquet file is damaged after row {number} ({reason}); make it again."
        ) from error


def _check_claims(metadata: Any, size: int) -> None:
    """Raise ValueError, before reading, if the metadata claim far more than a file of this size can hold."""
    limit = max(_ALWAYS_ALLOWED_BYTES, _MAX_RATIO * size)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    claimed = sum(max(0, column.total_uncompressed_size) for column in columns)
    values = sum(max(0, column.num_values) for column in columns)
    rows = max(metadata.num_rows, sum(group.num_rows for group in groups))
    if claimed > limit or values > limit or rows > limit:
        raise ValueError(f"it claims {rows:,} rows and {claimed:,} bytes in a file of {size:,} bytes")
    if any(column.total_compressed_size > size for column in columns):
        raise ValueError("a column claims to be longer than the file")


def is_arrow_dataset(source: object) -> bool:
    """Return whether the source is a `datasets.Dataset` or `DatasetDict`, without importing the library."""
    return type(source).__module__.partition(".")[0] == "datasets" and hasattr(source, "column_names")


def iterate_arrow_dataset(dataset: Any) -> Iterator[Row]:
    """Yield (place, row) of a `datasets.Dataset`; raises DatasetError for a dictionary of several."""
    if isinstance(dataset, dict):
        raise DatasetError(f"DatasetDict: choose one of its splits ({', '.join(map(str, dataset))}) and pass that.")
    number = 0
    for batch in dataset.with_format(None).iter(batch_size=_BATCH):
        for cells in zip(*batch.values(), strict=True):
            number += 1
            yield SourceLocation("datasets.Dataset", 0, f"row {number}"), dict(zip(batch, cells, strict=True))
