"""Token pooling: fewer vectors per text, each the mean of equal or similar tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.utils.ragged import offsets_of

_PROTECTED = 1


def merge_repeated(tokens: TokenVectors) -> TokenVectors:
    """Return one vector per distinct token of each text: the unit mean of those of its occurrences.

    They stand where the token is first. Occurrences of a token in one text have similar states, so that little is lost
    (for MaxSim, the best of them is replaced by their mean). Vectors without token ids are returned as they are.
    """
    if tokens.token_ids is None or not len(tokens.vectors):
        return tokens
    text = np.repeat(np.arange(len(tokens)), tokens.lengths)
    order = np.lexsort((tokens.token_ids, text))  # stable: occurrences stay in order
    text_of, id_of = text[order], tokens.token_ids[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(text_of) != 0) | (np.diff(id_of) != 0)])
    firsts = order[starts]
    place = np.argsort(firsts)
    sums = np.add.reduceat(tokens.vectors[order], starts, axis=0)[place]
    lengths = np.bincount(text_of[starts], minlength=len(tokens)).astype(np.int64)
    return TokenVectors(unit_rows(sums), offsets_of(lengths), tokens.token_ids[firsts[place]])


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
