"""TokenStore: the quantised token vectors of memories, in memory or in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.segment import Segment, merge
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.stored_tokens import StoredTokens
from llama_index_ace_finetune.late_interaction.token_files import (
    SEGMENTS,
    StoreMeta,
    open_segment,
    read_meta,
    read_projection,
    remove_unused,
    write_meta,
    write_projection,
    write_segment,
)
from llama_index_ace_finetune.late_interaction.token_pooling import merge_repeated, pool_tokens
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.utils.file_lock import locked
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.new_folder import new_folder

KIND = "token vectors"


class TokenStore:
    """Token vectors of memories, merged, pooled and quantised, with the projection that queries need too.

    In a folder, each write adds the files of a segment and then replaces `meta.json`, so that a kill leaves the state
    before or after it, and readers keep the state that they opened. Safe to read from several threads, also while
    another thread writes; writers of several processes wait for each other.

    Args:
        dimension: of the token vectors.
        fingerprint: of the `TokenEncoder` that made them.
        settings: how they are stored; its `dimension` is not used.
        projection: of that encoder.
    """

    def __init__(
        self,
        dimension: int,
        fingerprint: str,
        *,
        settings: TokenSettings | None = None,
        projection: NDArray[np.float32] | None = None,
    ) -> None:
        settings = settings or TokenSettings()
        self.folder: Path | None = None
        self.projection = projection
        self._lock = fork_safe_lock()
        bits = settings.bits_at(dimension)
        self._meta = StoreMeta(
            fingerprint=fingerprint,
            dimension=dimension,
            bits=bits,
            pooling=settings.pooling,
            merge_repeated=settings.merge_repeated,
        )
        self._tokens = StoredTokens(dimension, bits)

    @classmethod
    def open(cls, folder: str | Path, *, fingerprint: str | None = None) -> TokenStore:
        """Open the folder of a store.

        Args:
            folder: written by `save`.
            fingerprint: the store must have; by default any.

        Raises:
            StoreError: if it is missing, damaged, truncated, or has another fingerprint.
        """
        folder = Path(folder)
        meta, tokens = _read(folder)
        if fingerprint is not None and meta.fingerprint != fingerprint:
            raise StoreError(
                f"The token vectors in {str(folder)!r} were made by another model or projection; build them again "
                "with this model."
            )
        projection = read_projection(folder, meta)
        store = cls(meta.dimension, meta.fingerprint, settings=meta.settings, projection=projection)
        store.folder, store._meta, store._tokens = folder, meta, tokens
        return store

    def save(self, folder: str | Path) -> TokenStore:
        """Write this state to a folder, which replaces a store there as a whole; return the store in the folder.

        Raises:
            OutputExistsError: if the folder holds something else.
        """
        folder = Path(folder)
        tokens = self._tokens
        with new_folder(folder, kind=KIND, grows=(SEGMENTS,), wait=True) as aside:
            (aside / SEGMENTS).mkdir()
            meta = write_projection(aside, self._meta, self.projection)
            records = [write_segment(aside, merge(tokens.segments, keep_deleted=False))] if tokens.segments else []
            write_meta(aside, replace(meta, segments=tuple(records)))
        return TokenStore.open(folder)

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, name: str) -> bool:
        return name in self._tokens

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the `TokenEncoder` that made the token vectors."""
        return self._meta.fingerprint

    @property
    def dimension(self) -> int:
        """Dimension of the token vectors."""
        return self._meta.dimension

    @property
    def settings(self) -> TokenSettings:
        """How token vectors are stored."""
        return self._meta.settings

    @property
    def tokens(self) -> StoredTokens:
        """The current state, which later writes do not change; memories added at once have successive rows."""
        return self._tokens

    @property
    def bytes_per_memory(self) -> float:
        """Mean bytes that a memory needs."""
        return self._tokens.bytes_per_memory

    def refresh(self) -> bool:
        """Read what another process has written since; return whether there was something.

        Raises:
            StoreError: if the folder is missing or damaged, or holds the token vectors of another model now.
        """
        if self.folder is None:
            return False
        with self._lock:
            if read_meta(self.folder) == self._meta:
                return False
            meta, tokens = _read(self.folder)
            if (meta.fingerprint, meta.projection) != (self._meta.fingerprint, self._meta.projection):
                raise StoreError(
                    f"The token vectors in {str(self.folder)!r} are now of another model or projection; open them with "
                    "that model."
                )
            self._meta, self._tokens = meta, tokens
            return True

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
        tokens = merge_repeated(tokens) if self._meta.merge_repeated else tokens
        segment = Segment.of(ids, pool_tokens(tokens, self._meta.pooling), self._meta.bits)
        with self._writing():
            self._add(segment)

    def delete(self, ids: Iterable[str]) -> None:
        """Delete memories; unknown ids are ignored."""
        with self._writing():
            known = [name for name in dict.fromkeys(ids) if name in self._tokens]
            if known:
                self._add(Segment.empty(self.dimension, self._meta.bits, known))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            if self.folder is None:
                yield
                return
            folder = self.folder.absolute()
            with locked(folder.with_name(f".{folder.name}.work.lock"), output=folder, wait=True):
                self.refresh()
                yield

    def _add(self, segment: Segment) -> None:
        tokens = self._tokens.with_segment(segment)
        segments = compacted(tokens.segments, tokens.live_tokens)
        if self.folder is not None:
            segments = self._write(self.folder, segments)
        if segments != tokens.segments:
            tokens = _view(self._meta, segments, self.folder)
        self._tokens = tokens

    def _write(self, folder: Path, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        """Write the segments that are not in files yet, and then the meta; return all as opened from their files."""
        records = {record.name: record for record in self._meta.segments}
        written = tuple(records[each.name] if each.name else write_segment(folder, each) for each in segments)
        meta = replace(self._meta, segments=written)
        opened = tuple(
            each if each.name else open_segment(folder, meta, record)
            for each, record in zip(segments, written, strict=True)
        )
        write_meta(folder, meta)
        self._meta = meta
        remove_unused(folder, meta)
        return opened


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


def _read(folder: Path) -> tuple[StoreMeta, StoredTokens]:
    meta = read_meta(folder)
    while True:
        try:
            return meta, _view(meta, tuple(open_segment(folder, meta, record) for record in meta.segments), folder)
        except StoreError:
            # A writer may have merged these segments and removed their files meanwhile.
            before, meta = meta, read_meta(folder)
            if meta == before:
                raise


def _view(meta: StoreMeta, segments: tuple[Segment, ...], folder: Path | None) -> StoredTokens:
    tokens = StoredTokens(meta.dimension, meta.bits, location=repr(str(folder)) if folder else "memory")
    for segment in segments:
        tokens = tokens.with_segment(segment)
    return tokens
