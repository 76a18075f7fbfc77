"""Weights of training queries in a loss: synthetic ones count less than those of users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.training.data.examples import IndexedExamples


def query_weights(examples: IndexedExamples, synthetic: float) -> NDArray[np.float32] | None:
    """Return the weight of each query, float32 [n]: `synthetic` for synthetic queries, 1 for the others.

    None if all are 1, as where there are no queries of both kinds.
    """
    if examples.synthetic is None or synthetic == 1:
        return None
    return np.where(examples.synthetic, synthetic, 1.0).astype(np.float32)
