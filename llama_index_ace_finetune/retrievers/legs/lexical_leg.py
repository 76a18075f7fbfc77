"""LexicalLeg: a leg that needs only the texts (BM25, character n-grams), in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode
from numpy.typing import NDArray
from qdrant_client import models

from llama_index_ace_finetune.ranking.bm25 import BM25Settings
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.ranking.lexical_indexes import build_lexical_index
from llama_index_ace_finetune.ranking.postings_index import PostingsIndex
from llama_index_ace_finetune.stores.ann.flat import RowFilterCache
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.fork import fork_safe_lock

_OVERFETCH = 4


class LexicalLeg:
    """An index of the EMBED texts of a store; it is built at the first search and updated after writes.

    Only memories that share a term with the query are hits. Writes by other processes are found after `refresh`.

    Args:
        store: of the memories.
        leg: "bm25", "bm25_unstemmed" or "char_ngrams".
        settings: parameters of the BM25 legs.
        build: makes the index of texts; by default that of the leg.
        text_of: what is indexed for a text; by default the text.
    """

    def __init__(
        self,
        store: MemoryStore,
        leg: Leg = "bm25",
        *,
        settings: BM25Settings | None = None,
        build: Callable[[Sequence[str]], PostingsIndex[Any]] | None = None,
        text_of: Callable[[str], str] | None = None,
    ) -> None:
        self._store = store
        self._build = build or (lambda texts: build_lexical_index(leg, texts, bm25=settings))
        self._text_of = text_of or (lambda text: text)
        self._log = store.subscribe()
        self._lock = fork_safe_lock()
        self._index: PostingsIndex[Any] | None = None
        self._node_ids: list[str] = []
        self._row_of: dict[PointKey, int] = {}
        self._row_of_id: dict[str, int] = {}
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

    def scores(self, query: str, node_ids: Sequence[str]) -> NDArray[np.float64]:
        """Return the exact scores of some memories, float64 [n], 0 for one that does not match.

        The constant that BM25's variant `plus` adds to every document is left out.
        """
        index = self._synced_index()
        with self._lock:
            index = self._index or index  # the one that the rows are of
            rows = np.array([self._row_of_id.get(node_id, -1) for node_id in node_ids], np.int64)
        scores = np.zeros(len(rows))
        there = rows >= 0  # another memory cannot be read, so it is not in the index
        scores[there] = index.score(query, rows[there], shifted=False)
        return scores

    def _hits(self, index: PostingsIndex[Any], query: str, k: int, rows: object = None) -> list[tuple[str, float]]:
        # With ties, since rows are in the order of writing and ties at the k-th hit are broken by id.
        found, scores = index.search(query, k, allowed=rows, ties=True)  # type: ignore[arg-type]
        hits = [(self._node_ids[row], float(score)) for row, score in zip(found, scores, strict=True)]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]

    def _synced_index(self) -> PostingsIndex[Any]:
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

    def _rebuild(self) -> PostingsIndex[Any]:
        # Sorted by id, so that ties, broken by row, are broken by id.
        points = sorted(self._store.points_as_nodes(), key=lambda point: point[1])
        self._node_ids = [node_id for _, node_id, _ in points]
        self._row_of = {point: row for row, (point, _, _) in enumerate(points)}
        self._row_of_id = {node_id: row for row, node_id in enumerate(self._node_ids)}
        self._version += 1
        self._index = self._build([self._text_of(_text(node)) for _, _, node in points])
        return self._index

    def _update(self, index: PostingsIndex[Any], changed: list[PointKey]) -> None:
        present = list(self._store.points_as_nodes(changed))
        removed = [row for row in (self._row_of.pop(point, None) for point in changed) if row is not None]
        index.remove(removed)
        for row in removed:
            self._row_of_id.pop(self._node_ids[row], None)
        # The node ids first: another thread may find a row as soon as it is added.
        self._node_ids.extend(node_id for _, node_id, _ in present)
        texts = [self._text_of(_text(node)) for _, _, node in present]
        rows = index.add(texts)
        for (point, node_id, _), row in zip(present, rows, strict=True):
            self._row_of[point] = self._row_of_id[node_id] = int(row)
        self._version += 1
        self._on_update(removed, texts)

    def _on_update(self, removed: Sequence[int], added: Sequence[str]) -> None:
        """Called after rows were removed and texts were added as the next rows."""


def _text(node: BaseNode) -> str:
    return node.get_content(MetadataMode.EMBED)
