"""Batches of queries about neighbouring documents, which are hard negatives of each other at no cost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.sampler import SetEpochMixin
from torch.utils.data import BatchSampler

from llama_index_ace_finetune.ranking.dense import dense_top_k, unit_rows

_TRIED = 4  # neighbours that are looked up, times the size of a cluster: some will have no query left
_BLOCK = 20_000  # documents among which neighbours are looked up: the time grows with its square


class ClusteredBatches(SetEpochMixin, BatchSampler):
    """Yield each query once per epoch, in batches of clusters of queries about neighbouring documents.

    A cluster is a query and one each about the nearest other documents, of the queries that are in none yet. Each epoch
    draws other first queries, and another order.

    Source: hard negatives from the batch, by topic (Hofstaetter et al. 2021, arXiv:2104.06967).

    Args:
        vectors: float32 [n, d], one for each query, in which neighbours are found.
        documents: the document that each query is about, int64 [n].
        batch_size: queries of a batch; the last one may be smaller.
        cluster_size: queries of a cluster; 1 draws queries independently.
        seed: of the order.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        documents: NDArray[np.int64],
        *,
        batch_size: int,
        cluster_size: int,
        seed: int,
    ) -> None:
        self._batch_size, self._cluster_size, self._seed = batch_size, cluster_size, seed
        _, self._document = np.unique(documents, return_inverse=True)
        self._near: list[list[int]] = []
        if cluster_size > 1 and len(vectors):
            sums = np.zeros((int(self._document.max()) + 1, vectors.shape[1]), np.float32)
            np.add.at(sums, self._document, vectors)
            self._near = _neighbours(unit_rows(sums), _TRIED * cluster_size, seed=seed)
        self.epoch = 0

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._document) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the numbers of the queries of each batch of the current epoch."""
        order = self._order(np.random.default_rng((self._seed, self.epoch)))
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    def _order(self, random: np.random.Generator) -> list[int]:
        drawn: list[int] = random.permutation(len(self._document)).tolist()
        if not self._near:
            return drawn
        left: list[list[int]] = [[] for _ in self._near]
        for query in drawn:
            left[self._document[query]].append(query)
        clusters: list[list[int]] = []
        taken = np.zeros(len(drawn), bool)
        for first in drawn:
            if taken[first]:
                continue
            taken[first] = True
            cluster = [first]
            for near in self._near[self._document[first]]:
                if len(cluster) == self._cluster_size:
                    break
                queries = left[near] if near != self._document[first] else []
                while queries and taken[queries[-1]]:
                    queries.pop()
                if queries:
                    cluster.append(queries.pop())
                    taken[cluster[-1]] = True
            clusters.append(cluster)
        return [query for place in random.permutation(len(clusters)) for query in clusters[place]]


def _neighbours(vectors: NDArray[np.float32], depth: int, *, seed: int) -> list[list[int]]:
    """Return the nearest rows of each row, itself among them; of many rows, among a part of them."""
    count = len(vectors)
    near: list[list[int]] = [[] for _ in range(count)]
    for rows in np.array_split(np.random.default_rng(seed).permutation(count), -(-count // _BLOCK)):
        found = rows[dense_top_k(vectors[rows], vectors[rows], min(depth, len(rows)))[0]]
        for row, hits in zip(rows.tolist(), found.tolist(), strict=True):
            near[row] = hits
    return near
