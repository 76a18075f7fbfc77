"""Token pooling: fewer vectors per text, each the mean of similar tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.utils.ragged import offsets_of

_PROTECTED = 1


def pool_tokens(tokens: TokenVectors, factor: int) -> TokenVectors:
    """Return about 1 / factor of the token vectors of each text: unit means of clusters.

    The clusters are those of Ward's hierarchical clustering by cosine distance, and the first token, usually [CLS], is
    kept as it is, as in `HierarchicalTokenPooling` of sentence-transformers (Clavié, Chaffin and Adams 2024,
    arXiv:2409.14683). A factor of 1 pools nothing.
    """
    if factor <= 1 or not len(tokens):
        return tokens
    pooled = [_pool(tokens[text], factor) for text in range(len(tokens))]
    lengths = np.array([len(rows) for rows in pooled], np.int64)
    return TokenVectors(unit_rows(np.concatenate(pooled)), offsets_of(lengths))


def _pool(vectors: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    rest = vectors[_PROTECTED:]
    clusters = max(len(rest) // factor, 1)
    if clusters >= len(rest):
        return vectors
    distances = np.clip(1 - rest @ rest.T, 0, 2)
    tree = hierarchy.linkage(squareform(distances, checks=False), method="ward")
    _, labels = np.unique(hierarchy.fcluster(tree, t=clusters, criterion="maxclust"), return_inverse=True)
    sums = np.zeros((labels.max() + 1, rest.shape[1]), np.float32)
    np.add.at(sums, labels, rest)
    return np.concatenate([vectors[:_PROTECTED], sums / np.bincount(labels)[:, None].astype(np.float32)])
