"""Synthetic unit vectors, distributed like embeddings of texts.

A tree of topics: a memory is the sum of the offsets of its area, its topic, its case and the memory itself, each
Gaussian with variances that fall by a power law over 384 directions. The constants were chosen so that 10,200 of them
are no easier to search than 10,200 MiniLM vectors of five sets (error messages, shell commands, dialogues, lessons,
abstracts) with their queries: for the same recall an inverted file reads 47 of 101 lists here and 30 there, the
intrinsic dimension (TwoNN) is 14 and 10.5, and a query's best cosine .63 and .61 on average. `gaussian` vectors, which
no model produces, have no clusters that an index could use.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

DIMENSION = 384
KINDS = ("grouped", "gaussian")
AREAS, PER_CASE = 30, 20
SHARES, OWN, POWER = (0.1, 0.1, 0.2), 0.6, 0.55
UNEVEN, QUERIES_FARTHER = 0.6, 2.0
_AT_ONCE = 20_000


@lru_cache(maxsize=1)
def _topics(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard deviations by direction, a rotation, and the sum of the offsets of each case."""
    rng = np.random.default_rng(1234)
    spectrum = (1 + np.arange(DIMENSION)) ** -POWER
    spectrum = (spectrum / np.sqrt((spectrum**2).mean())).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))[0].astype(np.float32)
    cases = max(count // PER_CASE, AREAS)
    topics = int((cases * AREAS) ** 0.5)
    areas, topics_, cases_ = (
        spectrum * np.float32(share**0.5) * rng.standard_normal((n, DIMENSION), dtype=np.float32)
        for n, share in zip((AREAS, topics, cases), SHARES, strict=True)
    )
    topics_ += areas[rng.integers(0, AREAS, topics)]
    cases_ += topics_[rng.integers(0, topics, cases)]
    return spectrum, rotation, cases_


def batches(kind: str, count: int, *, of: int | None = None, seed: int = 0, own: float = OWN) -> Iterator[np.ndarray]:
    """Yield `count` vectors in batches, of the topics of a set of `of`; another seed gives other vectors of them."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, _AT_ONCE):
        rows = rng.standard_normal((min(_AT_ONCE, count - start), DIMENSION), dtype=np.float32)
        if kind == "grouped":
            spectrum, rotation, cases = _topics(of or count)
            scale = np.exp(UNEVEN * rng.standard_normal((len(rows), 1), dtype=np.float32)) * own**0.5
            rows = (cases[rng.integers(0, len(cases), len(rows))] + scale * spectrum * rows) @ rotation
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


def queries_for(kind: str, count: int, n: int) -> np.ndarray:
    """Vectors of the same topics as `count` memories, farther from them than they are from each other."""
    return np.concatenate(list(batches(kind, n, of=count, seed=99, own=QUERIES_FARTHER * OWN)))
