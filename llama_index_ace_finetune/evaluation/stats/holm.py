"""Correct p-values for multiple comparisons."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_ace_finetune.errors import AceFinetuneError


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values float64 [m] adjusted by Holm's method, which controls the family-wise error rate.

    The smallest is multiplied by m, the next by m - 1, and so on; the results are made non-decreasing, at most 1.
    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Raises:
        AceFinetuneError: for a value that is not between 0 and 1.
    """
    values = np.asarray(p_values, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise AceFinetuneError(f"The p-values {values.tolist()} are not all between 0 and 1; give p-values.")
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted
