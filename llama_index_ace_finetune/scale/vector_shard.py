"""VectorShard: some memories with their vectors, and the Parquet file that holds them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.scale.memory_files import metadata_json
from llama_index_ace_finetune.utils.atomic import new_file
from llama_index_ace_finetune.utils.file_errors import Refusal, UnusableFileError
from llama_index_ace_finetune.utils.read_json import parse_json
from llama_index_ace_finetune.utils.read_parquet import open_parquet
from llama_index_ace_finetune.utils.validation import checked

_FORMAT: Final = "vector-shard-1"
_KEY: Final = b"ace_finetune"
_REFUSAL: Final = Refusal("The shard", "run `ace-finetune encode` again, which encodes it again", StoreError)
_SOURCE: Final = ("id", "text", "metadata")


@dataclass(frozen=True)
class ShardHeader:
    """What a shard holds.

    Attributes:
        format: of the file.
        number: of the shard, from 0.
        fingerprint: of the model's document vectors.
        vectors: that fingerprint with backend and precision (`Encoder.vector_key`).
        source: digest of the file of memories.
        left_out: rows of that file that were left out.
    """

    format: str
    number: int
    fingerprint: str
    vectors: str
    source: str
    left_out: int


@dataclass(frozen=True)
class VectorShard:
    """Memories and their unit vectors, float32 [n, dimension], in the same order."""

    memories: Sequence[Memory]
    vectors: NDArray[np.float32]


def text_digests(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return 64 bits of a hash of each normalised text, uint64 [n]: equal texts have equal digests."""
    hashes = (hashlib.blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=8) for text in texts)
    return np.frombuffer(b"".join(found.digest() for found in hashes), "<u8")


def shard_header(*, number: int, fingerprint: str, vectors: str, source: str, left_out: int) -> ShardHeader:
    """Return the header of a shard of the current format."""
    return ShardHeader(_FORMAT, number, fingerprint, vectors, source, left_out)


def write_shard(path: Path, shard: VectorShard, header: ShardHeader) -> None:
    """Write a shard whole or not at all; the same shard gives the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [memory.text for memory in shard.memories]
    dimension = shard.vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(shard.vectors, np.float32).ravel())
    table = pa.table(
        {
            "id": pa.array([memory.id for memory in shard.memories], pa.string()),
            "text": pa.array(texts, pa.large_string()),
            "metadata": pa.array([metadata_json(memory.metadata) for memory in shard.memories], pa.large_string()),
            "digest": pa.array(text_digests(texts)),
            "vector": pa.FixedSizeListArray.from_arrays(flat, dimension),
        }
    ).replace_schema_metadata({_KEY: json.dumps(asdict(header), sort_keys=True).encode()})
    compression = dict.fromkeys(_SOURCE, "zstd") | {"digest": "none", "vector.list.element": "none"}
    with new_file(path) as handle:
        pq.write_table(
            table, handle, compression=compression, use_dictionary=False, write_statistics=False,
            write_page_checksum=True,
        )  # fmt: skip


def read_shard_header(path: Path) -> tuple[ShardHeader, int]:
    """Return the header of a shard and its number of rows; raises StoreError."""
    with open_parquet(path, _REFUSAL) as table:
        return _header(path, table), table.metadata.num_rows


def read_shard(path: Path) -> VectorShard:
    """Read a shard; raises StoreError if it is missing or damaged."""
    with open_parquet(path, _REFUSAL) as table:
        _header(path, table)
        return VectorShard(_memories(table.read(columns=[*_SOURCE])), _vectors(table))


def read_shard_memories(path: Path) -> list[Memory]:
    """Read only the memories of a shard; raises StoreError."""
    with open_parquet(path, _REFUSAL) as table:
        _header(path, table)
        return _memories(table.read(columns=[*_SOURCE]))


def read_shard_digests(path: Path) -> NDArray[np.uint64]:
    """Read only the digests of the texts of a shard, uint64 [n]; raises StoreError."""
    with open_parquet(path, _REFUSAL) as table:
        _header(path, table)
        return np.asarray(table.read(columns=["digest"])["digest"].to_numpy(), np.uint64)


def _header(path: Path, table: Any) -> ShardHeader:
    content = (table.schema_arrow.metadata or {}).get(_KEY)
    if content is None:
        raise UnusableFileError("is not a shard that `ace-finetune encode` wrote")
    value = parse_json(content.decode("utf-8"))
    header = checked(value, ShardHeader, path, _REFUSAL)
    if header.format != _FORMAT:
        raise UnusableFileError(f"has the format {header.format[:40]!r} and not {_FORMAT!r}")
    return header


def _memories(table: Any) -> list[Memory]:
    columns = (table[name].to_pylist() for name in _SOURCE)
    found = []
    for identifier, text, metadata in zip(*columns, strict=True):
        values = parse_json(metadata)
        if not (isinstance(identifier, str) and isinstance(text, str) and isinstance(values, dict)):
            raise UnusableFileError("is corrupt (a memory without id or text)")
        found.append(Memory(identifier, text, values))
    return found


def _vectors(table: Any) -> NDArray[np.float32]:
    import pyarrow as pa

    column = table.read(columns=["vector"])["vector"]
    if not (pa.types.is_fixed_size_list(column.type) and column.type.value_type == pa.float32()) or column.null_count:
        raise UnusableFileError("is corrupt (its vectors are no lists of float32 of one length)")
    vectors = np.empty((len(column), column.type.list_size), np.float32)
    start = 0
    for chunk in column.chunks:
        vectors[start : start + len(chunk)] = chunk.flatten().to_numpy().reshape(len(chunk), -1)
        start += len(chunk)
    if not np.isfinite(vectors).all():
        raise UnusableFileError("is corrupt (NaN or infinite vectors)")
    return vectors
