"""Open Parquet files that may be damaged or hostile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.utils.file_errors import Refusal, UnusableFileError
from llama_index_ace_finetune.utils.open_file import open_file

_MAX_RATIO = 100
_ALWAYS_ALLOWED_BYTES = 32 * 2**20


@contextmanager
def open_parquet(path: Path, refusal: Refusal) -> Iterator[Any]:
    """Yield the `pyarrow.parquet.ParquetFile` of a regular file; page checksums are verified if it has any.

    Raises:
        AceFinetuneError: the refusal's own class, for errors of the block too.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_file(path) as handle, pq.ParquetFile(handle, page_checksum_verification=True) as table:
            check_claims(table.metadata, os.fstat(handle.fileno()).st_size)
            yield table
    except UnusableFileError as error:
        raise refusal.because(path, error) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise refusal.because(path, f"is damaged ({str(error).partition(chr(10))[0][:100]})") from error


def check_claims(metadata: Any, size: int) -> None:
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
