"""The folder of a token store: `meta.json`, `projection.npy`, and the files of each segment in `segments/`."""

from __future__ import annotations

import contextlib
import json
import mmap
import secrets
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import StoreError, quoted
from llama_index_ace_finetune.late_interaction.quantization import Bits, packed_bytes
from llama_index_ace_finetune.late_interaction.segment import Segment
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.utils.atomic import new_file, write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_array import dtypes, read_array_file
from llama_index_ace_finetune.utils.read_json import read_json_file, read_json_object
from llama_index_ace_finetune.utils.validation import checked
from llama_index_ace_finetune.utils.write_array import write_array_file

FORMAT_VERSION: Final = 1
META: Final = "meta.json"
SEGMENTS: Final = "segments"
_PROJECTION: Final = "projection.npy"
_ARRAYS: Final = {"codes": dtypes(np.uint8), "scales": dtypes(np.float16), "offsets": dtypes(np.int64)}
_DAMAGED: Final = Refusal("The file", "build the token vectors again", StoreError)
_MAX_IDS_BYTES: Final = 2**30
_LARGEST: Final = 4096


@dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """A segment in `meta.json`: the start of its file names, and the CRC-32 of the content of each file."""

    name: str
    checksums: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class StoreMeta:
    """Content of `meta.json`, which is written last.

    Attributes:
        fingerprint: of the `TokenEncoder` that made the vectors.
        dimension: of the vectors.
        bits: per coordinate.
        pooling: tokens per vector.
        merge_repeated: whether equal tokens of a memory are one vector; those of earlier versions are not.
        projection: CRC-32 of the projection; None if there is none.
        segments: the oldest first.
    """

    fingerprint: str
    dimension: int
    bits: Bits
    pooling: int
    merge_repeated: bool = False
    projection: int | None = None
    segments: tuple[SegmentRecord, ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def settings(self) -> TokenSettings:
        """How token vectors are stored."""
        return TokenSettings(
            dimension=self.dimension, bits=self.bits, pooling=self.pooling, merge_repeated=self.merge_repeated
        )


def read_meta(folder: Path) -> StoreMeta:
    """Read `meta.json`; raises StoreError if it is missing, damaged or of another version."""
    file = folder / META
    if not file.is_file():
        raise StoreError(f"There are no token vectors in {str(folder)!r}; build them first.")
    content = read_json_object(file, _DAMAGED)
    if content.get("format_version") != FORMAT_VERSION:
        raise _DAMAGED.because(file, f"has the format {quoted(content.get('format_version'))}, not {FORMAT_VERSION}")
    meta = checked(content, StoreMeta, file, _DAMAGED)
    if not (0 < meta.dimension <= _LARGEST and 0 < meta.pooling <= _LARGEST):
        raise _DAMAGED.because(file, "is damaged (a number is out of range)")
    for record in meta.segments:
        if not record.name.isalnum() or record.checksums.keys() != {*_ARRAYS, "ids"}:
            raise _DAMAGED.because(file, f"is damaged (its segment {quoted(record.name)} has no valid record)")
    return meta


def write_meta(folder: Path, meta: StoreMeta) -> None:
    """Write `meta.json`, which makes the segments that it names the content of the store."""
    write_json(folder / META, asdict(meta))


def write_projection(folder: Path, meta: StoreMeta, projection: NDArray[np.float32] | None) -> StoreMeta:
    """Write the projection of the token states, and return the meta with its checksum."""
    if projection is None:
        return replace(meta, projection=None)
    return replace(meta, projection=write_array_file(folder / _PROJECTION, projection))


def read_projection(folder: Path, meta: StoreMeta) -> NDArray[np.float32] | None:
    """Read the projection, float32 [width, dimension]; None if the vectors have none."""
    if meta.projection is None:
        return None
    projection = _read_array(folder / _PROJECTION, dtypes(np.float32), 2, meta.projection)
    if projection.shape[1] != meta.dimension:
        raise _DAMAGED.because(folder / _PROJECTION, f"is damaged ({projection.shape[1]} columns)")
    return projection


def write_segment(folder: Path, segment: Segment) -> SegmentRecord:
    """Write the files of a segment under a new name; they count once `meta.json` names it."""
    name = secrets.token_hex(8)
    checksums = {part: write_array_file(_file(folder, name, part), getattr(segment, part)) for part in _ARRAYS}
    ids = json.dumps({"ids": segment.ids, "deleted": segment.deleted}).encode()
    with new_file(_file(folder, name, "ids")) as handle:
        handle.write(ids)
    return SegmentRecord(name=name, checksums={**checksums, "ids": zlib.crc32(ids)})


def open_segment(folder: Path, meta: StoreMeta, record: SegmentRecord) -> Segment:
    """Open a segment with memory-mapped codes; raises StoreError if a file is missing, truncated or damaged.

    All checksums are verified (about a second per GB), since damaged codes would give wrong scores.
    """
    arrays = {
        part: _read_array(
            _file(folder, record.name, part),
            accepted,
            2 if part == "codes" else 1,
            record.checksums[part],
            mapped=part == "codes",
        )
        for part, accepted in _ARRAYS.items()
    }
    file = _file(folder, record.name, "ids")
    content = read_json_file(file, _DAMAGED, max_bytes=_MAX_IDS_BYTES, checksum=record.checksums["ids"])
    ids, deleted = (content.get(key) for key in ("ids", "deleted")) if isinstance(content, dict) else (None, None)
    if not (_are_ids(ids) and _are_ids(deleted)):
        raise _DAMAGED.because(file, "is damaged (it does not hold lists of ids)")
    codes, scales, offsets = arrays["codes"], arrays["scales"], arrays["offsets"]
    consistent = (
        len(offsets) == len(ids) + 1
        and (offsets[0], offsets[-1]) == (0, len(codes))
        and bool((np.diff(offsets) >= 0).all())
        and len(scales) == len(codes)
        and codes.shape[1] == packed_bytes(meta.dimension, meta.bits)
        and bool(np.isfinite(scales).all())
    )
    if not consistent:
        raise _DAMAGED.because(_file(folder, record.name, "codes"), "is damaged (it does not fit the other files)")
    check = _SizeCheck(_file(folder, record.name, "codes"), codes)
    return Segment(ids, codes, scales, offsets, deleted, check, record.name)


def remove_unused(folder: Path, meta: StoreMeta) -> None:
    """Remove the files of segments that `meta.json` does not name: merged ones, and those of killed writers."""
    kept = {record.name for record in meta.segments}
    for file in (folder / SEGMENTS).iterdir():
        if file.name.split(".")[0] not in kept:
            with contextlib.suppress(OSError):  # Windows keeps files that a reader has open
                file.unlink()


class _SizeCheck:
    """Raises StoreError if a mapped file is shorter than its array: reading beyond its end would end the process."""

    def __init__(self, file: Path, array: NDArray[Any]) -> None:
        self._file = file
        mapped: Any = array
        while mapped is not None and not isinstance(mapped, mmap.mmap):
            mapped = mapped.base
        self._mapped = mapped
        self._size = 0 if mapped is None else mapped.size()

    def __call__(self) -> None:
        # `mmap.size` is the current size of the open file, whatever is at its path now.
        if self._mapped is not None and self._mapped.size() < self._size:
            raise _DAMAGED.because(self._file, "has been truncated since it was opened")


def _file(folder: Path, name: str, part: str) -> Path:
    return folder / SEGMENTS / f"{name}.{part}.{'json' if part == 'ids' else 'npy'}"


def _read_array(file: Path, accepted: Any, dimensions: int, checksum: int, *, mapped: bool = False) -> NDArray[Any]:
    return read_array_file(file, _DAMAGED, dtypes=accepted, dimensions=dimensions, mapped=mapped, checksum=checksum)


def _are_ids(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)
