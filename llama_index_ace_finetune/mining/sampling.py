"""Which of the candidates that passed are taken."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.mining.candidates import NOT_FOUND, Candidates
from llama_index_ace_finetune.mining.settings import SamplingStrategy

Chosen = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Columns of the candidates int64 [n, count], in the order they were taken, -1 where no more are left; and the number
of the source each was taken from, of the same shape."""


def select(
    candidates: Candidates,
    passing: NDArray[np.bool_],
    count: int,
    *,
    sampling_strategy: SamplingStrategy,
    seeds: NDArray[np.uint64],
) -> Chosen:
    """Take up to `count` of the passing candidates, bool [n, w], of each query; rows judged wrong come first."""
    if sampling_strategy == "spread":
        return take_turns(candidates, passing, count)
    if sampling_strategy == "random":
        return take_random(candidates, passing, count, seeds)
    return take_top(candidates, passing, count)


def take_top(candidates: Candidates, passing: NDArray[np.bool_], count: int) -> Chosen:
    """By the best rank over the sources, which is the order they are in."""
    order = np.argsort(~passing, axis=1, kind="stable")
    return _first(candidates, passing, order, count)


def take_random(candidates: Candidates, passing: NDArray[np.bool_], count: int, seeds: NDArray[np.uint64]) -> Chosen:
    """Uniformly without replacement, in the order drawn: by a hash of the query's seed, uint64 [n], and the row.

    A query's draw depends on nothing but these, whatever queries stand beside it.
    """
    rows = candidates.rows.astype(np.int64).astype(np.uint64)
    keys = split_mix(seeds[:, None] ^ split_mix(rows)) >> np.uint64(1)
    keys[candidates.judged] = 0
    keys[~passing] = np.iinfo(np.uint64).max
    return _first(candidates, passing, np.argsort(keys, axis=1, kind="stable"), count)


def take_turns(candidates: Candidates, passing: NDArray[np.bool_], count: int) -> Chosen:
    """Source after source takes the best that is left of its own ranking, until none has any."""
    queries = np.arange(len(passing))
    columns = np.full((len(passing), count), -1, np.int64)
    sources = np.full((len(passing), count), -1, np.int64)
    taken = np.zeros(len(passing), np.int64)
    left = passing.copy()

    def turn(source: int) -> bool:
        if not left.size or not count:
            return False
        rank = np.where(left, candidates.ranks[source], NOT_FOUND)
        best = rank.argmin(axis=1)
        does = np.flatnonzero((rank[queries, best] != NOT_FOUND) & (taken < count))
        columns[does, taken[does]], sources[does, taken[does]] = best[does], source
        left[does, best[does]] = False
        taken[does] += 1
        return bool(len(does))

    while turn(0):  # all that was judged wrong
        pass
    while any([turn(source) for source in range(1, len(candidates.sources))]):  # noqa: C419 - nobody misses a turn
        pass
    return columns, sources


def query_seeds(keys: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Return a seed for each query, uint64 [n], from the run's seed and the query's key alone."""
    digests = (hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()[:8] for key in keys)
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def split_mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit numbers one to one (the output function of SplitMix64, Steele, Lea and Flood 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _first(candidates: Candidates, passing: NDArray[np.bool_], order: NDArray[np.int64], count: int) -> Chosen:
    """Take the first passing columns in `order`, int64 [n, w]; each from the source that ranks it best."""
    order = order[:, :count]
    chosen = np.take_along_axis(passing, order, axis=1)
    columns = np.full((len(passing), count), -1, np.int64)
    columns[:, : order.shape[1]] = np.where(chosen, order, -1)
    best = candidates.ranks.argmin(axis=0)
    sources = np.full_like(columns, -1)
    sources[:, : order.shape[1]] = np.where(chosen, np.take_along_axis(best, order, axis=1), -1)
    return columns, sources
