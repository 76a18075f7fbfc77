"""The two legs of a hybrid search over one store: nearest vectors, and BM25."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.schema import MetadataMode

from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.stores.memory_store import MemoryStore


@dataclass(frozen=True, slots=True)
class LegHit:
    """A memory that a leg found: its node id, the leg's own score, and its rank there, from 1."""

    node_id: str
    score: float
    rank: int


def ranked(hits: Sequence[tuple[str, float]]) -> list[LegHit]:
    """Number hits that are in order already."""
    return [LegHit(node_id=node_id, score=score, rank=rank) for rank, (node_id, score) in enumerate(hits, start=1)]


class LexicalLeg:
    """BM25 over the EMBED texts of a store, read from it at the first search and after each `upsert` through it.

    Only memories that share a word with the query are hits.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._index: BM25Index | None = None
        self._revision = store.revision
        self._node_ids: list[str] = []

    def search(self, query: str, k: int) -> list[LegHit]:
        """Return the k best memories, best first, ties by node id."""
        index, node_ids = self._built()
        rows, scores = index.search(query, k)
        return ranked([(node_ids[row], float(score)) for row, score in zip(rows, scores, strict=True)])

    def _built(self) -> tuple[BM25Index, list[str]]:
        with self._lock:
            if self._index is None or self._revision != self._store.revision:
                self._revision = self._store.revision
                # Sorted by id, so that BM25's tie rule (by row) is a tie rule by id.
                nodes = sorted(self._store.nodes(), key=lambda node: node.node_id)
                self._node_ids = [node.node_id for node in nodes]
                self._index = BM25Index.build([node.get_content(MetadataMode.EMBED) for node in nodes])
            return self._index, self._node_ids
