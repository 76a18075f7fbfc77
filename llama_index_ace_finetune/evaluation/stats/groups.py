"""Groups of queries that are resampled together (clusters)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError

Groups = Sequence[str] | Sequence[int] | NDArray[np.integer]


def number_groups(groups: Groups | None, count: int) -> NDArray[np.int64]:
    """Return int64 [count], the group of each query from 0 without gaps; by default each query is one group.

    Raises:
        AceFinetuneError: if labels and queries differ in number.
    """
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise AceFinetuneError(f"There are {len(groups)} group labels for {count} queries; give one each.")
    return np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
