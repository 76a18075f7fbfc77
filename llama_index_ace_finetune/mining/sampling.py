"""Sampling strategies: which accepted candidates become negatives."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.mining.candidates import NOT_FOUND, Candidates
from llama_index_ace_finetune.mining.settings import SamplingStrategy

Selection = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Columns of the candidates int64 [n, count], in the order of selection, padded with -1; and the index of the source of
each, of the same shape."""


def select(
    candidates: Candidates,
    accepted: NDArray[np.bool_],
    count: int,
    *,
    sampling_strategy: SamplingStrategy,
    seeds: NDArray[np.uint64],
) -> Selection:
    """Select up to `count` accepted candidates, bool [n, w], per query; judged negatives come first."""
    if sampling_strategy == "spread":
        return select_round_robin(candidates, accepted, count)
    if sampling_strategy == "random":
        return select_random(candidates, accepted, count, seeds)
    return select_top(candidates, accepted, count)


def select_top(candidates: Candidates, accepted: NDArray[np.bool_], count: int) -> Selection:
    """Select by best rank over the sources, which is the order of the candidates."""
    order = np.argsort(~accepted, axis=1, kind="stable")
    return _select_first(candidates, accepted, order, count)


def select_random(
    candidates: Candidates, accepted: NDArray[np.bool_], count: int, seeds: NDArray[np.uint64]
) -> Selection:
    """Sample uniformly without replacement, ordered by a hash of the query's seed, uint64 [n], and the row.

    The draw of a query depends only on these, not on the other queries.
    """
    rows = candidates.rows.astype(np.int64).astype(np.uint64)
    keys = split_mix(seeds[:, None] ^ split_mix(rows)) >> np.uint64(1)
    keys[candidates.judged] = 0
    keys[~accepted] = np.iinfo(np.uint64).max
    return _select_first(candidates, accepted, np.argsort(keys, axis=1, kind="stable"), count)


def select_round_robin(candidates: Candidates, accepted: NDArray[np.bool_], count: int) -> Selection:
    """Round-robin over the sources: each selects its best-ranked remaining candidate, until none is left."""
    queries = np.arange(len(accepted))
    columns = np.full((len(accepted), count), -1, np.int64)
    sources = np.full((len(accepted), count), -1, np.int64)
    n_selected = np.zeros(len(accepted), np.int64)
    left = accepted.copy()

    def draw(source: int) -> bool:
        if not left.size or not count:
            return False
        rank = np.where(left, candidates.ranks[source], NOT_FOUND)
        best = rank.argmin(axis=1)
        drawing = np.flatnonzero((rank[queries, best] != NOT_FOUND) & (n_selected < count))
        columns[drawing, n_selected[drawing]], sources[drawing, n_selected[drawing]] = best[drawing], source
        left[drawing, best[drawing]] = False
        n_selected[drawing] += 1
        return bool(len(drawing))

    while draw(0):  # all judged negatives
        pass
    while any([draw(source) for source in range(1, len(candidates.sources))]):  # noqa: C419 - every source draws in each round
        pass
    return columns, sources


def query_seeds(keys: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Return a seed for each query, uint64 [n], that depends only on the run's seed and the query's key."""
    digests = (hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()[:8] for key in keys)
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def split_mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64-bit numbers, one to one (the output function of SplitMix64, Steele, Lea and Flood 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _select_first(
    candidates: Candidates, accepted: NDArray[np.bool_], order: NDArray[np.int64], count: int
) -> Selection:
    """Select the first accepted columns in `order`, int64 [n, w], each from the source that ranks it best."""
    order = order[:, :count]
    selected = np.take_along_axis(accepted, order, axis=1)
    columns = np.full((len(accepted), count), -1, np.int64)
    columns[:, : order.shape[1]] = np.where(selected, order, -1)
    best = candidates.ranks.argmin(axis=0)
    sources = np.full_like(columns, -1)
    sources[:, : order.shape[1]] = np.where(selected, np.take_along_axis(best, order, axis=1), -1)
    return columns, sources
