"""BM25Leg: the lexical leg of a hybrid search, in this process; a leg is one of the two retrievers that are fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.schema import BaseNode, MetadataMode
from qdrant_client import models

from llama_index_ace_finetune.ranking.bm25 import BM25Index, BM25Settings
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer
from llama_index_ace_finetune.stores.ann.flat import RowFilterCache
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.fork import fork_safe_lock

_OVERFETCH = 4


@dataclass(frozen=True, slots=True)
class LegHit:
    """A hit of a leg: node id, the leg's score, and the rank in the leg, from 1."""

    node_id: str
    score: float
    rank: int


def ranked(hits: Sequence[tuple[str, float]]) -> list[LegHit]:
    """Return hits, given best first, with their ranks."""
    return [LegHit(node_id=node_id, score=score, rank=rank) for rank, (node_id, score) in enumerate(hits, start=1)]


class BM25Leg:
    """BM25 over the EMBED texts of a store; it is built at the first search and updated after writes.

    Only memories that share a word with the query are hits. Writes by other processes are found after `refresh`.
    """

    def __init__(
        self, store: MemoryStore, *, settings: BM25Settings | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        self._store = store
        self._settings, self._tokenizer = settings, tokenizer
        self._log = store.subscribe()
        self._lock = fork_safe_lock()
        self._index: BM25Index | None = None
        self._node_ids: list[str] = []
        self._row_of: dict[PointKey, int] = {}
        self._version = 0
        self._row_filters = RowFilterCache()

    def refresh(self) -> None:
        """Rebuild the index from the store before the next search."""
        self._log.record(None)
        self._store.refresh()

    def search(self, query: str, k: int, *, query_filter: models.Filter | None = None) -> list[tuple[str, float]]:
        """Return node ids and scores of the k best memories that match the filter, best first, ties by node id."""
        index = self._synced_index()
        if query_filter is None:
            return self._hits(index, query, k)
        if self._store.embedded:
            allowed = self._store.matching_ids(query_filter)
            with self._lock:
                rows = self._row_filters.rows(allowed, self._row_of, self._version)
            return self._hits(index, query, k, rows)
        # On a server, millions of points may match, so only the hits are checked.
        depth = _OVERFETCH * k
        while True:
            hits = self._hits(index, query, depth)
            matching = self._store.filter_ids([node_id for node_id, _ in hits], query_filter)
            accepted = [hit for hit in hits if hit[0] in matching]
            if len(accepted) >= k or len(hits) < depth:
                return accepted[:k]
            depth *= _OVERFETCH

    def _hits(self, index: BM25Index, query: str, k: int, rows: object = None) -> list[tuple[str, float]]:
        # With ties, since rows are in the order of writing and ties at the k-th hit are broken by id.
        found, scores = index.search(query, k, allowed=rows, ties=True)  # type: ignore[arg-type]
        hits = [(self._node_ids[row], float(score)) for row, score in zip(found, scores, strict=True)]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]

    def _synced_index(self) -> BM25Index:
        with self._lock:
            changed = self._log.drain()
            try:
                if self._index is None or changed is None:
                    return self._rebuild()
                if changed:
                    self._update(self._index, list(changed))
                return self._index
            except BaseException:
                self._log.record(None)  # the drained points were not read
                raise

    def _rebuild(self) -> BM25Index:
        # Sorted by id, so that BM25's ties, broken by row, are broken by id.
        points = sorted(self._store.points_as_nodes(), key=lambda point: point[1])
        self._node_ids = [node_id for _, node_id, _ in points]
        self._row_of = {point: row for row, (point, _, _) in enumerate(points)}
        self._version += 1
        self._index = BM25Index.build(
            [_text(node) for _, _, node in points], settings=self._settings, tokenizer=self._tokenizer
        )
        return self._index

    def _update(self, index: BM25Index, changed: list[PointKey]) -> None:
        present = list(self._store.points_as_nodes(changed))
        index.remove(row for row in (self._row_of.pop(point, None) for point in changed) if row is not None)
        # The node ids first: another thread may find a row as soon as it is added.
        self._node_ids.extend(node_id for _, node_id, _ in present)
        rows = index.add(_text(node) for _, _, node in present)
        for (point, _, _), row in zip(present, rows, strict=True):
            self._row_of[point] = int(row)
        self._version += 1


def _text(node: BaseNode) -> str:
    return node.get_content(MetadataMode.EMBED)
