"""SplitSettings: how a dataset is split."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama_index_ace_finetune.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Fractions of the queries per part, and which queries stay together.

    Raises DatasetError for fractions that do not sum to 1, thresholds outside (0, 1], and `known` outside [0, 0.5].

    Attributes:
        train: fraction of the queries to train on.
        dev: fraction for model selection.
        test: fraction that is held out for the report.
        seed: random seed of the split.
        near_duplicate: queries whose word sets have at least this Jaccard similarity stay together.
        group_field: metadata field of the queries, or of their positives; queries with equal values stay together.
        category_field: metadata field of the queries by which the parts are balanced, if they have it.
        known: at most this fraction of the train queries is held out as new queries about known memories, if memories
            have three or more train queries; 0 for none.
    """

    train: float = 0.6
    dev: float = 0.15
    test: float = 0.25
    seed: int = 0
    near_duplicate: float = 0.8
    group_field: str | None = None
    category_field: str = "category"
    known: float = 0.1

    def __post_init__(self) -> None:
        fractions = (self.train, self.dev, self.test)
        if not all(math.isfinite(f) and 0 <= f <= 1 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
            raise DatasetError(
                f"Split: the fractions train {self.train}, dev {self.dev}, test {self.test} must be 0 or more and "
                "sum to 1."
            )
        if not 0 < self.near_duplicate <= 1:
            raise DatasetError(f"Split: near_duplicate is {self.near_duplicate}; it must be above 0 and at most 1.")
        if not 0 <= self.known <= 0.5:
            raise DatasetError(f"Split: known is {self.known}; it must be 0 or more and at most 0.5.")
