"""StoredTokens: an unchanging view of the quantised token vectors of all memories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import StoreError, quoted
from llama_index_ace_finetune.late_interaction.max_sim import GatheredTokens
from llama_index_ace_finetune.late_interaction.quantization import LEVELS, Bits, packed_bytes, packed_products
from llama_index_ace_finetune.late_interaction.segment import Segment
from llama_index_ace_finetune.utils.ragged import offsets_of, ragged_rows


class StoredTokens:
    """Memories by row, as a `TokenSource` of `max_sim`; a writer makes a new one.

    The rows of successive segments follow each other. Rows of replaced and deleted memories remain, without an id.
    """

    def __init__(self, dimension: int, bits: Bits, *, location: str = "memory") -> None:
        self.segments: tuple[Segment, ...] = ()
        self.dimension = dimension
        self.bits: Bits = bits
        self._location = location
        self._row_of: dict[str, int] = {}
        # By row.
        self._segment = self._start = self._length = np.zeros(0, np.int64)

    def with_segment(self, segment: Segment) -> StoredTokens:
        """Return a view that also has the memories of a later segment."""
        view = StoredTokens(self.dimension, self.bits, location=self._location)
        view.segments = (*self.segments, segment)
        view._row_of = self._row_of.copy()
        for name in segment.deleted:
            view._row_of.pop(name, None)
        first = len(self._length)
        view._row_of.update((name, first + row) for row, name in enumerate(segment.ids))
        number = np.full(len(segment.ids), len(self.segments), np.int64)
        view._segment = np.concatenate([self._segment, number])
        view._start = np.concatenate([self._start, segment.offsets[:-1]])
        view._length = np.concatenate([self._length, np.diff(segment.offsets)])
        return view

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, name: str) -> bool:
        return name in self._row_of

    @property
    def ids(self) -> list[str]:
        """The ids of the memories; of memories that were added at once, in the order of their rows."""
        return list(self._row_of)

    @property
    def live_tokens(self) -> int:
        """Number of stored vectors, without those of replaced and deleted memories."""
        return int(self._length[np.fromiter(self._row_of.values(), np.int64, len(self._row_of))].sum())

    @property
    def bytes_per_memory(self) -> float:
        """Mean bytes of codes, scales and offset of a memory; 0 without memories."""
        per_token = packed_bytes(self.dimension, self.bits) + 2
        return self.live_tokens * per_token / len(self) + 8 if len(self) else 0.0

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each memory, int64 [n].

        Raises:
            StoreError: if a memory has no token vectors here.
        """
        rows = np.array([self._row_of.get(name, -1) for name in ids], np.int64)
        if len(rows) and rows.min() < 0:
            missing = int((rows < 0).sum())
            raise StoreError(
                f"The token vectors in {self._location} lack {missing} of {len(rows)} memories, such as "
                f"{quoted(ids[int(rows.argmin())])}; upsert these memories, or build the token vectors again."
            )
        return rows

    def gather(self, rows: NDArray[np.int64]) -> GatheredTokens:
        """Return the tokens of these rows, in this order, as packed integers with scales.

        Raises:
            StoreError: if a file has been truncated since it was opened.
        """
        lengths = self._length[rows]
        segment_of = self._segment[rows]
        used = np.unique(segment_of)
        if len(used) == 1:
            codes, scales = self._read(int(used[0]), ragged_rows(self._start[rows], lengths))
        else:
            starts = offsets_of(lengths)
            codes = np.empty((int(starts[-1]), packed_bytes(self.dimension, self.bits)), np.uint8)
            scales = np.empty(len(codes), np.float16)
            for segment in used:
                places = np.flatnonzero(segment_of == segment)
                target = ragged_rows(starts[:-1][places], lengths[places])
                source = ragged_rows(self._start[rows[places]], lengths[places])
                codes[target], scales[target] = self._read(int(segment), source)
        return GatheredTokens(
            lambda queries: packed_products(codes, queries, self.bits),
            lengths,
            scales.astype(np.float32),
            LEVELS[self.bits],
        )

    def _read(self, segment: int, tokens: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
        found = self.segments[segment]
        found.check()
        return found.codes.take(tokens, axis=0), found.scales.take(tokens)
