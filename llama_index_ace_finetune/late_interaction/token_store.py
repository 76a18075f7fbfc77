"""TokenStore: the quantised token vectors of memories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.segment import Segment, merge
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.stored_tokens import StoredTokens
from llama_index_ace_finetune.late_interaction.token_pooling import pool_tokens
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.utils.fork import fork_safe_lock


class TokenStore:
    """Token vectors of memories, pooled and quantised, in memory.

    Safe to read from several threads, also while another thread writes.

    Args:
        dimension: of the token vectors.
        fingerprint: of the `TokenEncoder` that made them.
        settings: how they are stored; its `dimension` is not used.
    """

    def __init__(self, dimension: int, fingerprint: str, *, settings: TokenSettings | None = None) -> None:
        self.fingerprint = fingerprint
        self.settings = settings or TokenSettings()
        self._lock = fork_safe_lock()
        self._tokens = StoredTokens(dimension, self.settings.bits)

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, name: str) -> bool:
        return name in self._tokens

    @property
    def dimension(self) -> int:
        """Dimension of the token vectors."""
        return self._tokens.dimension

    @property
    def tokens(self) -> StoredTokens:
        """The current state, which later writes do not change; memories added at once have successive rows."""
        return self._tokens

    @property
    def bytes_per_memory(self) -> float:
        """Mean bytes that a memory needs."""
        return self._tokens.bytes_per_memory

    def upsert(self, ids: Sequence[str], tokens: TokenVectors) -> None:
        """Add the token vectors of memories, or replace those of existing ones.

        Raises:
            StoreError: if an id occurs twice, the numbers of ids and texts differ, or the vectors have another
                dimension.
        """
        if len(ids) != len(tokens):
            raise StoreError(
                f"There are {len(ids)} ids for the token vectors of {len(tokens)} memories; give one each."
            )
        if len(set(ids)) != len(ids):
            raise StoreError("An id occurs twice among the memories to upsert; give each memory once.")
        if not len(ids):
            return
        if tokens.dimension != self.dimension:
            raise StoreError(
                f"The token vectors have {tokens.dimension} dimensions, and those of the store {self.dimension}; use "
                "the projection that the store was built with."
            )
        self._add(Segment.of(ids, pool_tokens(tokens, self.settings.pooling), self.settings.bits))

    def delete(self, ids: Iterable[str]) -> None:
        """Delete memories; unknown ids are ignored."""
        known = [name for name in dict.fromkeys(ids) if name in self._tokens]
        if known:
            self._add(Segment.empty(self.dimension, self.settings.bits, known))

    def _add(self, segment: Segment) -> None:
        with self._lock:
            tokens = self._tokens.with_segment(segment)
            segments = compacted(tokens.segments, tokens.live_tokens)
            if segments != tokens.segments:
                tokens = StoredTokens(self.dimension, self.settings.bits)
                for kept in segments:
                    tokens = tokens.with_segment(kept)
            self._tokens = tokens


def compacted(segments: tuple[Segment, ...], live_tokens: int) -> tuple[Segment, ...]:
    """Return the segments with the last ones merged, so that each is at least twice as large as the next.

    So n single upserts make at most log2(n) segments, and rewrite each vector about log2(n) times. Everything is merged
    once less than half of the vectors are of current memories.
    """
    first = len(segments) - 1
    size = segments[first].size
    while first > 0 and segments[first - 1].size < 2 * size:
        first -= 1
        size += segments[first].size
    if 2 * live_tokens < sum(segment.tokens for segment in segments):
        first = 0
    if first == len(segments) - 1:
        return segments
    return (*segments[:first], merge(segments[first:], keep_deleted=first > 0))
