"""Effect size of paired differences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def paired_effect_size(differences: NDArray[np.float64]) -> float | None:
    """Return Cohen's d of paired values: mean of the differences / their standard deviation (n - 1).

    About .2 is called small, .5 medium, .8 large. 0 if all differences are 0; None if the standard deviation is
    undefined or 0: fewer than two queries, or equal differences.

    Source: d_z in Lakens, "Calculating and reporting effect sizes", Frontiers in Psychology 2013.

    Args:
        differences: per query, float [n].
    """
    if not len(differences):
        return None
    if not np.any(differences):
        return 0.0
    deviation = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    # Of a constant such as .1 the computed standard deviation is about 1e-17.
    return float(np.mean(differences)) / deviation if deviation > 1e-12 else None
