"""Segment: quantised token vectors of some memories, as they are written at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.late_interaction.quantization import Bits, packed_bytes, quantise_tokens
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.utils.ragged import offsets_of, ragged_rows


def _unchanged() -> None:
    """Arrays in memory cannot shrink."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Token vectors of n memories.

    Attributes:
        ids: their ids.
        codes: uint8 [t, bytes], memory-mapped if read from a file.
        scales: float16 [t].
        offsets: int64 [n + 1]; memory i has the rows offsets[i]:offsets[i + 1] of `codes`.
        deleted: ids deleted when the segment was written: they are gone from earlier segments.
        check: raises StoreError if the mapped file has changed its size, since reading it would end the process.
        name: of its files; empty in memory.
    """

    ids: Sequence[str]
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    offsets: NDArray[np.int64]
    deleted: Sequence[str] = ()
    check: Callable[[], None] = _unchanged
    name: str = ""

    @property
    def tokens(self) -> int:
        """Number of stored vectors."""
        return len(self.codes)

    @property
    def size(self) -> int:
        """Number of vectors and ids, for deciding which segments to merge."""
        return len(self.codes) + len(self.ids) + len(self.deleted)

    @classmethod
    def of(cls, ids: Sequence[str], tokens: TokenVectors, bits: Bits, deleted: Sequence[str] = ()) -> Segment:
        """Return the quantised token vectors of memories."""
        codes, scales = quantise_tokens(tokens.vectors, bits)
        return cls(list(ids), codes, scales, tokens.offsets, list(deleted))

    @classmethod
    def empty(cls, dimension: int, bits: Bits, deleted: Sequence[str] = ()) -> Segment:
        """Return a segment without memories."""
        codes = np.empty((0, packed_bytes(dimension, bits)), np.uint8)
        return cls([], codes, np.empty(0, np.float16), np.zeros(1, np.int64), list(deleted))

    def select(self, rows: NDArray[np.int64]) -> Segment:
        """Return these memories, in memory."""
        self.check()
        lengths = np.diff(self.offsets)[rows]
        tokens = ragged_rows(self.offsets[rows], lengths)
        return Segment([self.ids[row] for row in rows], self.codes[tokens], self.scales[tokens], offsets_of(lengths))


def merge(segments: Sequence[Segment], *, keep_deleted: bool) -> Segment:
    """Return one segment, in memory, with the latest version of each memory of successive segments.

    Args:
        segments: at least one, the oldest first.
        keep_deleted: whether there are segments before these, from which their ids may have to be deleted.
    """
    parts = [segment.select(rows) for segment, rows in zip(segments, _live_rows(segments), strict=True)]
    deleted = dict.fromkeys(name for segment in segments for name in segment.deleted) if keep_deleted else {}
    return Segment(
        [name for part in parts for name in part.ids],
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
        list(deleted),
    )


def _live_rows(segments: Sequence[Segment]) -> list[NDArray[np.int64]]:
    """Return the rows of each segment that no later segment replaces or deletes, in ascending order."""
    gone: set[str] = set()
    found = []
    for segment in reversed(segments):
        found.append(np.array([row for row, name in enumerate(segment.ids) if name not in gone], np.int64))
        gone.update(segment.ids)
        gone.update(segment.deleted)
    return found[::-1]
