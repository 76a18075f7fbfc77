"""The lexical leg of a hybrid search in this process, and what a leg's hits look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.schema import BaseNode, MetadataMode
from qdrant_client import models

from llama_index_ace_finetune.ranking.bm25 import BM25Index, BM25Settings
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer
from llama_index_ace_finetune.stores.ann.flat import AllowedRows
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.fork import fork_safe_lock

_DEEPER = 4


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
    """BM25 over the EMBED texts of a store, read from it at the first search and kept in step with its writes.

    Only memories that share a word with the query are hits. What another process writes to a server is seen after
    `reread`.
    """

    def __init__(
        self, store: MemoryStore, *, settings: BM25Settings | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        self._store = store
        self._settings, self._tokenizer = settings, tokenizer
        self._log = store.watch()
        self._lock = fork_safe_lock()
        self._index: BM25Index | None = None
        self._node_ids: list[str] = []
        self._row_of: dict[PointKey, int] = {}
        self._version = 0
        self._allowed = AllowedRows()

    def reread(self) -> None:
        """Read the whole store again before the next search."""
        self._log.note(None)
        self._store.reread()

    def search(self, query: str, k: int, *, only: models.Filter | None = None) -> list[tuple[str, float]]:
        """Return node ids and scores of the k best memories that pass the filter, best first, ties by node id."""
        index = self._in_step()
        if only is None:
            return self._hits(index, query, k)
        if self._store.embedded:
            allowed = self._store.passing(only)
            with self._lock:
                rows = self._allowed.rows(allowed, self._row_of, self._version)
            return self._hits(index, query, k, rows)
        # On a server the points that pass may be millions: ask about those that were found.
        depth = _DEEPER * k
        while True:
            hits = self._hits(index, query, depth)
            kept = self._store.keep_passing([node_id for node_id, _ in hits], only)
            passed = [hit for hit in hits if hit[0] in kept]
            if len(passed) >= k or len(hits) < depth:
                return passed[:k]
            depth *= _DEEPER

    def _hits(self, index: BM25Index, query: str, k: int, rows: object = None) -> list[tuple[str, float]]:
        # With ties: rows are in the order of writing, and the cut has to be by id.
        found, scores = index.search(query, k, allowed=rows, ties=True)  # type: ignore[arg-type]
        hits = [(self._node_ids[row], float(score)) for row, score in zip(found, scores, strict=True)]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]

    def _in_step(self) -> BM25Index:
        with self._lock:
            touched = self._log.take()
            try:
                if self._index is None or touched is None:
                    return self._built()
                if touched:
                    self._update(self._index, list(touched))
                return self._index
            except BaseException:
                self._log.note(None)  # what was taken was not read
                raise

    def _built(self) -> BM25Index:
        # Sorted by id, so that BM25's tie rule (by row) is a tie rule by id.
        points = sorted(self._store.points_as_nodes(), key=lambda point: point[1])
        self._node_ids = [node_id for _, node_id, _ in points]
        self._row_of = {point: row for row, (point, _, _) in enumerate(points)}
        self._version += 1
        self._index = BM25Index.build(
            [_text(node) for _, _, node in points], settings=self._settings, tokenizer=self._tokenizer
        )
        return self._index

    def _update(self, index: BM25Index, touched: list[PointKey]) -> None:
        present = list(self._store.points_as_nodes(touched))
        index.remove(row for row in (self._row_of.pop(point, None) for point in touched) if row is not None)
        # The names come first: another thread may find a row as soon as it is in.
        self._node_ids.extend(node_id for _, node_id, _ in present)
        rows = index.add(_text(node) for _, _, node in present)
        for (point, _, _), row in zip(present, rows, strict=True):
            self._row_of[point] = int(row)
        self._version += 1


def _text(node: BaseNode) -> str:
    return node.get_content(MetadataMode.EMBED)
