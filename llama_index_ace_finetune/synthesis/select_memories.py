"""Select the memories to ask queries for: those without a known query first, spread over the corpus by cluster."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.stores.ann.kmeans import nearest_centroid, train_centroids

_PER_CLUSTER: Final = 20


def select_memories(
    asked: NDArray[np.bool_], count: int, *, vectors: NDArray[np.float32] | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Return up to `count` rows of memories, in the order in which to ask for them.

    Memories that no known query asks for come first. Within each of the two kinds the clusters take turns, so that a
    large topic does not crowd out small ones.

    Source: cluster-diverse sampling, Chandradevan et al., "DUQGen", 2024.

    Args:
        asked: whether a known query has the memory as a relevant one, bool [m].
        count: how many memories.
        vectors: unit vectors of the memories [m, d] to cluster; None for a random order.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(asked))
    cluster = np.zeros(len(asked), np.int64)
    if vectors is not None and len(asked) > _PER_CLUSTER:
        centroids = train_centroids(vectors, len(asked) // _PER_CLUSTER, rng=rng)
        cluster = nearest_centroid(vectors, centroids)
    turn = np.empty(len(asked), np.int64)
    seen: dict[tuple[bool, int], int] = {}
    for row in order.tolist():
        key = (bool(asked[row]), int(cluster[row]))
        turn[row] = seen[key] = seen.get(key, -1) + 1
    position = np.empty(len(asked), np.int64)
    position[order] = np.arange(len(asked))
    rows: NDArray[np.int64] = np.lexsort((position, turn, asked))[:count]
    return rows
