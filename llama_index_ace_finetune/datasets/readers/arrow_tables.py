"""Rows of a Parquet file or a `datasets.Dataset`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.readers.table import Row
from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.datasets.text_files import unusable_file
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.file_errors import UnusableFileError
from llama_index_ace_finetune.utils.open_file import open_file
from llama_index_ace_finetune.utils.read_parquet import check_claims

_BATCH = 4096


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
            check_claims(table.metadata, os.fstat(handle.fileno()).st_size)
            for batch in table.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield SourceLocation(str(path), 0, f"row {number}"), row
    except UnusableFileError as error:
        raise unusable_file(path, error) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise DatasetError(
            f"{path}: the Parquet file is damaged after row {number} ({reason}); make it again."
        ) from error


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
