"""mine_shard: the best memories of a shard for all queries, by cosine and by BM25; and the merge of two shards'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.corpus_statistics import CorpusStatistics
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.scale.vector_shard import VectorShard, read_shard, read_shard_memories

Hits = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows int64 [n, k], -1 after the last hit, and scores float32 [n, k], best first, ties by row."""


@dataclass(frozen=True)
class MiningQueries:
    """Queries to mine for, and their unit vectors, float32 [n, d]."""

    texts: Sequence[str]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class ShardTask:
    """A shard to search: its file, the row of its first memory in the corpus, and which memories count, bool [rows].

    Copies of a memory of an earlier row do not count.
    """

    file: Path
    first: int
    kept: NDArray[np.bool_]


def mine_shard(
    shard: VectorShard,
    queries: MiningQueries,
    *,
    depth: int,
    kept: NDArray[np.bool_],
    dense: bool = True,
    statistics: CorpusStatistics | None = None,
) -> list[Hits]:
    """Return the best `depth` memories of a shard for each query, by each source; rows count from 0 in the shard.

    Args:
        shard: memories with vectors of the model that made those of the queries.
        queries: all queries.
        depth: hits per query and source.
        kept: which memories to search, bool [n].
        dense: search by cosine.
        statistics: of the whole corpus, for a search by BM25; none without.
    """
    rows, found = np.flatnonzero(kept), []
    if dense:
        found.append(dense_top_k(queries.vectors, shard.vectors[rows], depth))
    if statistics is not None:
        index = BM25Index.build((shard.memories[row].text for row in rows.tolist()), statistics=statistics)
        found.append(index.search_batch(list(queries.texts), depth))
    return [(np.where(hits >= 0, rows[hits], -1) if len(rows) else hits.astype(np.int64), s) for hits, s in found]


def merge_hits(one: Hits, other: Hits, depth: int) -> Hits:
    """Return the best `depth` hits of two parts of a corpus; the order of the parts does not matter."""
    rows = np.concatenate([one[0], other[0]], axis=1)
    scores = np.concatenate([one[1], other[1]], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :depth]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


@dataclass(frozen=True)
class CountWork:
    """Counts the documents of a shard that contain each of some terms."""

    terms: frozenset[str]

    def start(self) -> Callable[[ShardTask], CorpusStatistics]:
        """Return the function that counts."""

        def count(task: ShardTask) -> CorpusStatistics:
            memories = read_shard_memories(task.file)
            return CorpusStatistics.of((memories[row].text for row in np.flatnonzero(task.kept).tolist()), self.terms)

        return count


@dataclass(frozen=True)
class MineWork:
    """Searches a shard for all queries; see `mine_shard`."""

    queries: MiningQueries
    depth: int
    dense: bool
    statistics: CorpusStatistics | None

    def start(self) -> Callable[[ShardTask], list[Hits]]:
        """Return the function that searches; its rows are those of the corpus."""

        def mine(task: ShardTask) -> list[Hits]:
            found = mine_shard(
                read_shard(task.file), self.queries, depth=self.depth, kept=task.kept, dense=self.dense,
                statistics=self.statistics,
            )  # fmt: skip
            return [(np.where(rows >= 0, rows + task.first, -1), scores) for rows, scores in found]

        return mine
