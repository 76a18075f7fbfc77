"""ShardFolder: the vectors of a corpus by one model, as a folder of shards with their list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError, StoreError, quoted
from llama_index_ace_finetune.scale.memory_files import RowRange
from llama_index_ace_finetune.scale.vector_shard import (
    ShardHeader,
    VectorShard,
    read_shard,
    read_shard_digests,
    read_shard_header,
    read_shard_memories,
)
from llama_index_ace_finetune.utils.atomic import is_temporary, write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.validation import checked

LIST: Final = "shards.json"
MEMORIES: Final = "memories"
"""Subfolder for the memories of a source that is no Parquet file."""
_FORMAT: Final = "ace-finetune-shards-1"
_MAX_LIST_BYTES: Final = 2**28
_AGAIN: Final = "run `ace-finetune encode` again, which encodes only what is missing"
_REFUSAL: Final = Refusal("The list of shards", "encode to a new folder", StoreError)


@dataclass(frozen=True)
class _List:
    """Contents of `shards.json`."""

    format: str
    model: str
    fingerprint: str
    shards: tuple[RowRange, ...]


class ShardFolder:
    """A folder of shards: `shards.json`, which lists the rows of each, and `shard-00000.parquet` and so on."""

    def __init__(self, path: Path, content: _List) -> None:
        """Internal: use `plan` or `open`."""
        self.path = path
        self.model = content.model
        self.fingerprint = content.fingerprint
        self.shards = content.shards

    def __len__(self) -> int:
        return len(self.shards)

    @classmethod
    def plan(cls, path: Path, shards: Sequence[RowRange], *, model: str, fingerprint: str) -> ShardFolder:
        """Write the list of a new folder, or check that of an existing one.

        Raises:
            OutputExistsError: if the folder holds something else.
            StoreError: if it holds vectors of another model or of other memories.
        """
        content = _List(_FORMAT, model, fingerprint, tuple(shards))
        require_shard_output(path)
        if not (path / LIST).exists():
            write_json(path / LIST, asdict(content))
            return cls(path, content)
        folder = cls(path, _read_list(path))
        if folder.fingerprint != fingerprint:
            raise StoreError(
                f"The shards in {str(path)!r} are of another model ({folder.model!r:.80}, fingerprint "
                f"{quoted(folder.fingerprint)}, not {fingerprint!r}); give another folder, or delete it."
            )
        if folder.shards != content.shards:
            raise StoreError(
                f"The shards in {str(path)!r} are of other memories, or of another shard size; give another folder."
            )
        return folder

    @classmethod
    def open(cls, path: str | Path) -> ShardFolder:
        """Open a folder whose shards are all there.

        Raises:
            StoreError: if there is no list, or a shard is missing, damaged, of another model, or there twice.
        """
        path = Path(path)
        if not (path / LIST).is_file():
            raise StoreError(f"There are no shards in {str(path)!r} ({LIST} is missing); run `ace-finetune encode`.")
        folder = cls(path, _read_list(path))
        missing = [number for number in range(len(folder)) if not folder.file(number).exists()]
        if missing:
            raise StoreError(
                f"{len(missing)} of {len(folder)} shards are missing in {str(path)!r} (such as "
                f"{folder.file(missing[0]).name}); {_AGAIN}."
            )
        listed = {folder.file(number).name for number in range(len(folder))}
        for file in sorted(path.glob("*.parquet")):
            if file.name not in listed and not is_temporary(file.name):
                raise StoreError(
                    f"The file {str(file)!r} is not in the list of shards; remove it: its memories may be there twice."
                )
        folder.require_same_vectors([folder.header(number) for number in range(len(folder))])
        return folder

    def file(self, number: int) -> Path:
        """Path of a shard."""
        return self.path / f"shard-{number:05}.parquet"

    def header(self, number: int) -> ShardHeader:
        """Return the header of a shard; raises StoreError if it is damaged, or not the one that the list names."""
        header, rows = read_shard_header(self.file(number))
        part = self.shards[number]
        if header.fingerprint != self.fingerprint:
            raise StoreError(
                f"The shard {str(self.file(number))!r} is of another model (fingerprint "
                f"{quoted(header.fingerprint)}, not {self.fingerprint!r}); delete it, and {_AGAIN}."
            )
        if (header.number, header.source, rows + header.left_out) != (number, part.digest, part.rows):
            raise StoreError(
                f"The shard {str(self.file(number))!r} holds the memories of shard {header.number}, or of another "
                f"folder; delete it, and {_AGAIN}."
            )
        return header

    def finished(self) -> dict[int, ShardHeader]:
        """Return the headers of the shards that are there and whole.

        Raises:
            StoreError: if one is of another model, or not the one that the list names.
        """
        found = {}
        for number in range(len(self)):
            file = self.file(number)
            if file.exists() and _is_whole(file):
                found[number] = self.header(number)
        return found

    def require_same_vectors(self, headers: Sequence[ShardHeader]) -> None:
        """Raise StoreError if shards were encoded in different precisions or by different backends."""
        kinds = sorted({header.vectors for header in headers})
        if len(kinds) > 1:
            first, second = (kind.rpartition("-")[2] for kind in kinds[:2])
            raise StoreError(
                f"The shards in {str(self.path)!r} were encoded in {first} and in {second}; delete those of one kind, "
                "and encode them again with --precision."
            )

    def read(self, number: int) -> VectorShard:
        """Read a shard; raises StoreError if it is damaged."""
        return read_shard(self.file(number))

    def memories(self) -> Iterator[Memory]:
        """Yield the memories of all shards, in their order."""
        for number in range(len(self)):
            yield from read_shard_memories(self.file(number))

    def digests(self) -> Iterator[NDArray[np.uint64]]:
        """Yield the digests of the texts of each shard, uint64 [n]."""
        return (read_shard_digests(self.file(number)) for number in range(len(self)))


def require_shard_output(path: Path) -> None:
    """Raise OutputExistsError if a path holds something other than shards."""
    held = [file.name for file in path.iterdir()] if path.is_dir() else []
    if (path.exists() and not path.is_dir()) or (LIST not in held and set(held) - {MEMORIES}):
        raise OutputExistsError(f"The output {str(path)!r} holds something other than shards; give another folder.")


def _is_whole(file: Path) -> bool:
    try:
        read_shard_header(file)
    except AceFinetuneError:
        return False  # it is encoded again
    return True


def _read_list(path: Path) -> _List:
    file = path / LIST
    content = checked(read_json_object(file, _REFUSAL, max_bytes=_MAX_LIST_BYTES), _List, file, _REFUSAL)
    if content.format != _FORMAT:
        raise _REFUSAL.because(file, f"has the format {content.format[:40]!r} and not {_FORMAT!r}")
    return content
