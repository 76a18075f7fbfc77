"""Batches of neighbouring queries, whose documents are hard negatives of each other at no cost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.sampler import SetEpochMixin
from torch.utils.data import BatchSampler

from llama_index_ace_finetune.ranking.dense import dense_top_k

_TRIED = 4  # neighbours that are looked up, times the size of a cluster: some will be taken already
_BLOCK = 20_000  # rows among which neighbours are looked up: the time grows with its square


class ClusteredBatches(SetEpochMixin, BatchSampler):
    """Yield each row once per epoch, in batches of clusters of neighbouring rows.

    A cluster is a row and the nearest ones that are in none yet; each epoch draws other first rows, and another order.

    Source: hard negatives from the batch, by topic (Hofstaetter et al. 2021, arXiv:2104.06967).

    Args:
        vectors: float32 [n, d], unit rows.
        batch_size: rows of a batch; the last one may be smaller.
        cluster_size: rows of a cluster; 1 draws rows independently.
        seed: of the order.
    """

    def __init__(self, vectors: NDArray[np.float32], *, batch_size: int, cluster_size: int, seed: int) -> None:
        self._count, self._batch_size, self._cluster_size, self._seed = len(vectors), batch_size, cluster_size, seed
        self._near = _neighbours(vectors, _TRIED * cluster_size, seed=seed) if cluster_size > 1 else None
        self.epoch = 0

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-self._count // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row numbers of each batch of the current epoch."""
        order = self._order(np.random.default_rng((self._seed, self.epoch)))
        for start in range(0, self._count, self._batch_size):
            yield order[start : start + self._batch_size]

    def _order(self, random: np.random.Generator) -> list[int]:
        if self._near is None:
            return random.permutation(self._count).tolist()  # type: ignore[no-any-return]
        free = np.ones(self._count, bool)
        clusters: list[list[int]] = []
        for first in random.permutation(self._count).tolist():
            if not free[first]:
                continue
            free[first] = False
            near = self._near[first]
            more = near[free[near]][: self._cluster_size - 1]
            free[more] = False
            clusters.append([first, *more.tolist()])
        return [row for place in random.permutation(len(clusters)) for row in clusters[place]]


def _neighbours(vectors: NDArray[np.float32], depth: int, *, seed: int) -> NDArray[np.int64]:
    """Return the nearest rows of each row, int64 [n, depth], itself among them; of many rows, among a part of them."""
    count = len(vectors)
    blocks = np.array_split(np.random.default_rng(seed).permutation(count), -(-count // _BLOCK)) if count else []
    depth = min([depth, *map(len, blocks)])
    near = np.empty((count, depth), np.int64)
    for rows in blocks:
        near[rows] = rows[dense_top_k(vectors[rows], vectors[rows], depth)[0]]
    return near
