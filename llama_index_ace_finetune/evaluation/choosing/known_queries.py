"""Choose on dev whether known queries are further vectors of their memories, and a field of BM25."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.stats.groups import Groups, number_groups
from llama_index_ace_finetune.evaluation.stats.standard_error import ROUNDING, standard_error

OFFSETS: Final = (0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.0)
"""Cosine that is taken off a known query, compared on dev: the larger, the less it changes."""
WEIGHTS: Final = (1, 2, 3)
"""Weights of the terms of known queries in BM25, compared on dev."""
ALLOWED_LOSS: Final = 0.002
"""MRR@10 that the dev queries about other memories may lose: less than one of 200 that falls from rank 1 to 2."""


@dataclass(frozen=True)
class FieldChoice:
    """The chosen weight of known queries in BM25, and the evidence for it.

    Attributes:
        weight: the chosen one; 0 if BM25 reads the texts only.
        reason: why.
        new: mean MRR@10 of the dev queries by weight, which ask for other memories than the known queries.
        known: mean MRR@10 of the held-out queries about the memories of the known queries, likewise.
    """

    weight: int
    reason: str
    new: Mapping[int, float] = field(default_factory=dict)
    known: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownQueryChoice:
    """The chosen offset and the evidence for it.

    Attributes:
        offset: the chosen one; None if known queries are not used.
        reason: why.
        new: mean MRR@10 of the dev queries by offset, which ask for other memories than the known queries; None is the
            system without known queries.
        known: mean MRR@10 of the held-out queries about the memories of the known queries, likewise.
        bm25: whether they are a field of BM25 too; None if that was not compared.
    """

    offset: float | None
    reason: str
    new: Mapping[float | None, float] = field(default_factory=dict)
    known: Mapping[float | None, float] = field(default_factory=dict)
    bm25: FieldChoice | None = None

    @property
    def weight(self) -> int:
        """The weight of known queries in BM25; 0 if BM25 reads the texts only."""
        return self.bm25.weight if self.bm25 else 0


def choose_offset(
    new: Mapping[float | None, NDArray[np.float64]],
    known: Mapping[float | None, NDArray[np.float64]],
    *,
    groups: Groups | None = None,
    noun: str = "offset",
) -> KnownQueryChoice:
    """Choose the offset that is best for known memories among those that lose next to nothing on new ones.

    An offset is allowed if its mean over the dev queries, which ask for memories without known queries, is at most
    `ALLOWED_LOSS` below that of the system without known queries. Without this tolerance, one query whose rank falls
    from 10 to 11 would outweigh any gain. Of these the one with the highest mean over `known` is chosen, the largest
    if several have it, if it gains more than one standard error there.

    Args:
        new: MRR@10 of each dev query by offset, float [n]; None is the system without known queries.
        known: of each held-out query about a known memory, float [m].
        groups: the group of each query of `known`.
        noun: what is compared, in the reason.
    """
    means = {offset: float(values.mean()) if len(values) else 0.0 for offset, values in new.items()}
    gains = {offset: float(values.mean()) for offset, values in known.items()}
    allowed = [
        offset for offset in new if offset is not None and means[offset] >= means[None] - ALLOWED_LOSS - ROUNDING
    ]
    if not allowed:
        return KnownQueryChoice(
            None, f"every {noun} lowers MRR@10 on the dev queries by more than {ALLOWED_LOSS:g}", means, gains
        )
    best = max(allowed, key=lambda offset: (round(gains[offset], 12), offset))
    difference = known[best] - known[None]
    error = standard_error(difference, number_groups(groups, len(difference)))
    gain = float(difference.mean())
    against = (
        f"{gain:+.3f} MRR@10 on {len(difference)} held-out queries about known memories (standard error {error:.3f})"
    )
    if gain <= error + ROUNDING:
        return KnownQueryChoice(
            None,
            f"the best {noun} that loses at most {ALLOWED_LOSS:g} on dev, {abs(best):g}, has {against}",
            means,
            gains,
        )
    reason = f"{against}, and {means[best] - means[None]:+.3f} on {len(new[best])} dev queries about other memories"
    return KnownQueryChoice(best, reason, means, gains)


def choose_weight(
    new: Mapping[int, NDArray[np.float64]], known: Mapping[int, NDArray[np.float64]], *, groups: Groups | None = None
) -> FieldChoice:
    """Choose the weight of known queries in BM25 as `choose_offset` chooses the offset; the smallest of equal ones.

    Args:
        new: MRR@10 of each dev query by weight, float [n]; 0 is BM25 over the texts only.
        known: of each held-out query about a known memory, float [m].
        groups: the group of each query of `known`.
    """
    found = choose_offset(
        {-float(weight) if weight else None: values for weight, values in new.items()},
        {-float(weight) if weight else None: values for weight, values in known.items()},
        groups=groups,
        noun="weight",
    )
    means, gains = ({int(-(key or 0)): mean for key, mean in each.items()} for each in (found.new, found.known))
    return FieldChoice(int(-(found.offset or 0)), found.reason, means, gains)
