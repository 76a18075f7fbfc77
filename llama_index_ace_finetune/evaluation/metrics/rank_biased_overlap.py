"""Rank-biased overlap: how similar two rankings are, with more weight on the first ranks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from llama_index_ace_finetune.errors import AceFinetuneError

PERSISTENCE = 0.9


def rank_biased_overlap(first: Sequence[Hashable], second: Sequence[Hashable], *, p: float = PERSISTENCE) -> float:
    """Return the extrapolated rank-biased overlap of two rankings, in [0, 1]; 1 for equal rankings.

    The overlap at each depth has the weight (1 - p) p^(depth - 1), and the last one is assumed to continue (Webber,
    Moffat and Zobel, "A similarity measure for indefinite rankings", ACM TOIS 28(4), 2010, equation 32, for rankings of
    unequal length as well). With p = .9 the first 10 ranks have 86% of the weight. Two empty rankings are equal; an
    empty one has nothing in common with another.

    Args:
        first: distinct ids, best first.
        second: distinct ids, best first.
        p: probability that a reader goes from one rank to the next, between 0 and 1.

    Raises:
        AceFinetuneError: for p outside (0, 1), or an id that occurs twice in a ranking.
    """
    if not 0 < p < 1:
        raise AceFinetuneError(f"The p of rank-biased overlap is {p}; it must be between 0 and 1.")
    for ranking in (first, second):
        if len(set(ranking)) < len(ranking):
            raise AceFinetuneError("A ranking has an id twice; rank-biased overlap needs distinct ids.")
    short, long = sorted((first, second), key=len)
    if not short:
        return 0.0 if long else 1.0
    overlap, seen_short, seen_long = 0, set[Hashable](), set[Hashable]()
    total = 0.0
    overlap_of_short = 0
    for depth, item in enumerate(long, 1):
        seen_long.add(item)
        overlap += item in seen_short
        if depth <= len(short):
            seen_short.add(short[depth - 1])
            overlap += short[depth - 1] in seen_long
            overlap_of_short = overlap
        # Beyond the shorter ranking, its unknown rest is assumed to agree as often as its known part.
        assumed = overlap_of_short * max(0, depth - len(short)) / len(short)
        total += (overlap + assumed) / depth * p**depth
    rest = (overlap - overlap_of_short) / len(long) + overlap_of_short / len(short)
    return min(1.0, (1 - p) / p * total + rest * p ** len(long))
