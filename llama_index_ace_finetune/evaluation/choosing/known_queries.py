"""Choose on dev whether known queries are further vectors of their memories, and with which offset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.stats.groups import Groups, number_groups
from llama_index_ace_finetune.evaluation.stats.standard_error import standard_error

OFFSETS: Final = (0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.0)
"""Cosine that is taken off a known query, compared on dev: the larger, the less it changes."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class KnownQueryChoice:
    """The chosen offset and the evidence for it.

    Attributes:
        offset: the chosen one; None if known queries are not used.
        reason: why.
        new: mean MRR@10 of the dev queries by offset, which ask for other memories than the known queries; None is the
            system without known queries.
        known: mean MRR@10 of the held-out queries about the memories of the known queries, likewise.
    """

    offset: float | None
    reason: str
    new: Mapping[float | None, float] = field(default_factory=dict)
    known: Mapping[float | None, float] = field(default_factory=dict)


def choose_offset(
    new: Mapping[float | None, NDArray[np.float64]],
    known: Mapping[float | None, NDArray[np.float64]],
    *,
    groups: Groups | None = None,
) -> KnownQueryChoice:
    """Choose the offset that is best for known memories among those that lose nothing on new ones.

    An offset is allowed if its mean over the dev queries, which ask for memories without known queries, is not below
    that of the system without known queries. Of these the one with the highest mean over `known` is chosen, the largest
    if several have it, if it gains more than one standard error there.

    Args:
        new: MRR@10 of each dev query by offset, float [n]; None is the system without known queries.
        known: of each held-out query about a known memory, float [m].
        groups: the group of each query of `known`.
    """
    means = {offset: float(values.mean()) if len(values) else 0.0 for offset, values in new.items()}
    gains = {offset: float(values.mean()) for offset, values in known.items()}
    allowed = [offset for offset in new if offset is not None and means[offset] >= means[None] - _ROUNDING]
    if not allowed:
        return KnownQueryChoice(None, "every offset lowers MRR@10 on the dev queries", means, gains)
    best = max(allowed, key=lambda offset: (round(gains[offset], 12), offset))
    difference = known[best] - known[None]
    error = standard_error(difference, number_groups(groups, len(difference)))
    gain = float(difference.mean())
    against = (
        f"{gain:+.3f} MRR@10 on {len(difference)} held-out queries about known memories (standard error {error:.3f})"
    )
    if gain <= error + _ROUNDING:
        return KnownQueryChoice(
            None, f"the best offset that loses nothing on dev, {best:g}, has {against}", means, gains
        )
    reason = f"{against}, and {means[best] - means[None]:+.3f} on {len(new[best])} dev queries about other memories"
    return KnownQueryChoice(best, reason, means, gains)
