"""Whether a model has a token limit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def takes_token_limit(model: SentenceTransformer) -> bool:
    """Whether `model.max_seq_length` can be set: static embeddings read texts of any length and have no limit."""
    return bool(model.max_seq_length != math.inf)
