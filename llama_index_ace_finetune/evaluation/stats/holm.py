"""Several p-values at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_ace_finetune.errors import AceFinetuneError


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return adjusted p-values float64 [m]: below .05 each, with at most a 5 % chance that any of them is chance.

    The smallest is multiplied by m, the next by m - 1, and so on; none gets below one before it, and none above 1.
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
