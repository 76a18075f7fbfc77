"""Parquet files of memories: divide them into shards, and read the memories of one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers import column_names as names
from llama_index_ace_finetune.datasets.readers.column_choice import EXAMPLE, ColumnChoice, listed
from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.atomic import new_file
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.open_file import open_file
from llama_index_ace_finetune.utils.read_json import parse_json
from llama_index_ace_finetune.utils.read_parquet import open_parquet

SHARD_ROWS: Final = 50_000
_BATCH: Final = 4096
_REFUSAL: Final = Refusal("The Parquet file", "write it again, or remove it", DatasetError)
_IDS: Final = ("id", "_id", *names.MEMORY_ID)
_TEXTS: Final = (*names.TEXT, "memory")
_VECTORS: Final = frozenset({"embedding", "vector", "vectors"})


@dataclass(frozen=True, slots=True)
class RowRange:
    """The rows of a file that are one shard.

    Attributes:
        file: path below the folder of the memories.
        first: number of the first row.
        rows: number of rows.
        digest: of the end of the file, which lists sizes and value ranges of its columns; changes if the file does.
    """

    file: str
    first: int
    rows: int
    digest: str


def parquet_files(path: Path) -> list[Path]:
    """Return `path` if it is a Parquet file, or the Parquet files directly in a folder, by name; else none."""
    if path.is_dir():
        return sorted(file for file in path.glob("*.parquet") if file.is_file())
    return [path] if path.suffix == ".parquet" and path.is_file() else []


def divide_rows(files: Sequence[Path], *, rows: int = SHARD_ROWS) -> list[RowRange]:
    """Divide Parquet files into shards of at most `rows` rows, each within one file, in the order of the files.

    Raises:
        DatasetError: if a file is damaged or there is no row.
    """
    found = []
    for file in files:
        with open_parquet(file, _REFUSAL) as table:
            total, digest = table.metadata.num_rows, _footer_digest(file)
        found += [RowRange(file.name, first, min(rows, total - first), digest) for first in range(0, total, rows)]
    if not found:
        raise DatasetError(f"{files[0].parent if files else 'memories'}: the Parquet files have no row; give memories.")
    return found


def read_memories(folder: Path, part: RowRange, columns: ColumnChoice) -> tuple[list[Memory], int]:
    """Return the memories of a shard, cleaned as `read_dataset` does, and the number of rows that were left out.

    Rows without an id or a text, and repeated ids, are left out. Columns that are neither are metadata.

    Raises:
        DatasetError: if the file is damaged or was changed, or has no column of ids or texts.
    """
    file = folder / part.file
    builder = DatasetBuilder(part.file, "parquet")
    with open_parquet(file, _REFUSAL) as table:
        if _footer_digest(file) != part.digest:
            raise DatasetError(f"{file}: the file was changed since the shards were planned; encode to a new folder.")
        id_column, text_column = _columns(file, table.schema_arrow.names, columns)
        for number, row in _rows(table, part):
            location = SourceLocation(str(file), 0, f"row {number + 1}")
            metadata = _metadata(row, (id_column, text_column))
            with builder.row(location):
                builder.add_memory(row[id_column], row[text_column], location, metadata)
    return list(builder.memories.values()), part.rows - len(builder.memories)


def write_memories(file: Path, memories: Iterable[Memory]) -> None:
    """Write memories of any source as a Parquet file that `read_memories` reads; the same ones give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    held = list(memories)
    table = pa.table(
        {
            "id": pa.array([memory.id for memory in held], pa.string()),
            "text": pa.array([memory.text for memory in held], pa.large_string()),
            "metadata": pa.array([metadata_json(memory.metadata) for memory in held], pa.large_string()),
        }
    )
    with new_file(file) as handle:
        pq.write_table(table, handle, compression="zstd")


def metadata_json(values: Mapping[str, Any]) -> str:
    """Return metadata as JSON, without empty and infinite values; dates and the like become strings."""
    kept = {
        name: value
        for name, value in values.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }
    return json.dumps(kept, ensure_ascii=False, default=str)


def _metadata(row: Mapping[str, Any], used: tuple[str, str]) -> dict[str, Any]:
    """Return the other columns of a row; a JSON object in the column `metadata` is merged with them."""
    values = {name: value for name, value in row.items() if name not in used and value is not None}
    inner = values.get("metadata")
    if isinstance(inner, str) and inner.startswith("{"):
        with suppress(ValueError):
            values |= parse_json(values.pop("metadata"))
    return values


def _columns(file: Path, present: Sequence[str], choice: ColumnChoice) -> tuple[str, str]:
    id_column = choice.column("answer_id", present, file) or names.first_of(_IDS, present)
    text_column = choice.column("text", present, file) or names.first_of(_TEXTS, present)
    for kind, column in (("ids", id_column), ("texts", text_column)):
        if column is None:
            wanted = EXAMPLE.replace("query", "answer_id")
            raise DatasetError(f"{file}: there is no column of {kind}; {listed(present)}; name it with {wanted}.")
    assert id_column is not None
    assert text_column is not None
    return id_column, text_column


def _rows(table: Any, part: RowRange) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and values of each row of the shard; only the row groups that hold it are read."""
    last, start, offset = part.first + part.rows, 0, 0
    groups: list[int] = []
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        if start < last and start + size > part.first:
            offset = offset if groups else start
            groups.append(group)
        start += size
    columns = [name for name in table.schema_arrow.names if name.casefold() not in _VECTORS]
    for batch in table.iter_batches(batch_size=_BATCH, row_groups=groups, columns=columns):
        begin, end = max(part.first - offset, 0), min(last - offset, len(batch))
        if begin < end:
            rows = batch.slice(begin, end - begin).to_pylist()
            yield from enumerate(rows, start=offset + begin)
        offset += len(batch)


def _footer_digest(file: Path) -> str:
    """Return a digest of the size of a Parquet file and of its metadata, which are at its end."""
    with open_file(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        handle.seek(max(0, size - 8))
        length = int.from_bytes(handle.read(4), "little")
        handle.seek(max(0, size - 8 - length))
        return hashlib.sha256(handle.read() + size.to_bytes(8, "little")).hexdigest()[:32]
