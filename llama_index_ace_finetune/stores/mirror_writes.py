"""WriteMirror: what is written to one version of a memory set is also written to another, with its models."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import first_line
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.qdrant.write_log import exclusive_access
from llama_index_ace_finetune.stores.upsert_nodes import upsert_nodes

_INTERVAL: Final = 0.05  # seconds between two checks for writes
_ROUNDS: Final = 20
logger = logging.getLogger(__name__)


class WriteMirror:
    """Writes to `source` reach `target` too (dual writes), for as long as the `with` block runs.

    At the start `target` is made equal to `source`: what it lacks is embedded and written, what `source` does not have
    is deleted. After that a thread copies each write and deletion that is made through the client of `source`, by
    whichever of its users, within a fraction of a second; the end of the block waits for the last one. A write that
    cannot be copied is logged and tried again, and an error that remains is raised at the end of the block.

    Writes by other processes, or by another client, are not seen; `sync(everything=True)` compares all memories.

    Args:
        source: the version that applications write to.
        target: the version to keep up to date.
        encoders: the model of each named vector of `target`, as in `upsert_nodes`.
        cache: folder for vectors.

    Raises:
        StoreError: if a model did not make the vectors of `target`, or a store fails.
    """

    def __init__(
        self, source: MemoryStore, target: MemoryStore, encoders: Mapping[str, Encoder], *, cache: Path | None = None
    ) -> None:
        self._source, self._target, self._encoders, self._cache = source, target, dict(encoders), cache
        self._log = source.subscribe()
        self._syncing = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def sync(self, *, everything: bool = False, progress: Progress | None = None) -> int:
        """Copy what was written since the last call; return the number of memories written or deleted.

        Args:
            everything: compare all memories, as at the start.
            progress: called with the number of texts just embedded or found unchanged.
        """
        with self._syncing:
            keys = self._log.drain()
            try:
                return self._copy(None if everything else keys, progress)
            except BaseException:
                self._log.record(None)  # nothing is forgotten: the next call compares all memories
                raise

    def catch_up(self) -> bool:
        """Copy until `target` equals `source`; return False if writes arrive faster than they are copied."""
        for _ in range(_ROUNDS):
            with exclusive_access(self._source.client):
                if self._log.is_empty:
                    return True
            self.sync()
        return False

    def __enter__(self) -> WriteMirror:
        self.sync()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="ace-finetune-mirror")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        if kind is None:
            self.catch_up()

    def _follow(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            if self._log.is_empty:
                continue
            try:
                self.sync()
            except Exception as error:
                logger.warning("a write could not be copied to %s yet: %s", self._target.collection, first_line(error))
                self._stopped.wait(1.0)

    def _copy(self, keys: set[int | str] | None, progress: Progress | None) -> int:
        if keys is not None and not keys:
            return 0
        wanted = None if keys is None else [*keys]
        found = list(self._source.points_as_nodes(wanted))
        nodes = [node for _, _, node in found]
        written = upsert_nodes(self._target, nodes, self._encoders, cache=self._cache, progress=progress)
        kept = {node.node_id for node in nodes}
        if keys is None:
            removed = [node.node_id for node in self._target.nodes() if node.node_id not in kept]
        else:
            gone = keys - {key for key, _, _ in found}
            # A point id is also a node id for which the store finds the same point.
            removed = [*self._target.get([str(key) for key in gone])]
        self._target.delete(removed)
        return written + len(removed)
