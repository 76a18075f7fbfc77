"""Folds: every query tested once, by a system that was trained and selected without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.measures import HEADLINE
from llama_index_ace_finetune.evaluation.result import BASE, MEASURE
from llama_index_ace_finetune.evaluation.stats.comparison import Comparison, compare_measures
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference, paired_difference

SELECTED: Final = "selected in each fold"
UNTUNED: Final = "untuned, selected in each fold"
MEASURES: Final = tuple(str(measure) for measure in HEADLINE)
FOLDS_RULE: Final = (
    "With folds, the test queries are those of all folds, and each is ranked by the system that dev selected in the "
    "fold that held it out. The folds share training data, so the interval is that of this way of training and "
    "selecting, not of one model, and slightly optimistic (Bengio and Grandvalet 2004, Nadeau and Bengio 2003)."
)

Values = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Fold:
    """The test queries of a fold and the values of its systems.

    Attributes:
        query_ids: of its test part.
        groups: the group of each query [n]; a bootstrap resamples whole groups.
        values: per system and measure, float [n].
        selected: the system that dev selected in this fold.
        untuned: likewise, of the systems that do not need the tuned model.
        trained: names of the systems that need the tuned model.
    """

    query_ids: Sequence[str]
    groups: Sequence[str]
    values: Mapping[str, Values]
    selected: str
    untuned: str
    trained: frozenset[str]

    @property
    def by_role(self) -> dict[str, Values]:
        """The systems that need no tuned model by their name, and those that dev selected as `UNTUNED`, `SELECTED`."""
        own = {name: values for name, values in self.values.items() if name not in self.trained}
        return {**own, UNTUNED: self.values[self.untuned], SELECTED: self.values[self.selected]}


@dataclass(frozen=True)
class PooledFolds:
    """The results of all folds as those of one test set.

    Attributes:
        folds: in their order.
        groups: the group of each query [n], fold after fold.
        values: per system and measure, float [n]: the base, `SELECTED`, and the systems without training that every
            fold has.
    """

    folds: tuple[Fold, ...]
    groups: tuple[str, ...]
    values: Mapping[str, Values]

    @classmethod
    def of(cls, folds: Sequence[Fold]) -> PooledFolds:
        """Pool folds; raises AceFinetuneError if a query is in two of them, or there are fewer than two."""
        ids = [query_id for fold in folds for query_id in fold.query_ids]
        if len(folds) < 2 or len(set(ids)) < len(ids):
            raise AceFinetuneError(
                f"{len(folds)} folds with {len(ids)} queries, {len(set(ids))} of them distinct, cannot be pooled; make "
                "the run again with --force."
            )
        roles = [fold.by_role for fold in folds]
        names = [name for name in roles[0] if all(name in held for held in roles)]
        return cls(
            tuple(folds),
            tuple(group for fold in folds for group in fold.groups),
            {name: {one: np.concatenate([held[name][one] for held in roles]) for one in MEASURES} for name in names},
        )

    @cached_property
    def best_untuned(self) -> str:
        """The system without training that has the highest MRR@10 over all folds."""
        return max((name for name in self.values if name != SELECTED), key=lambda name: self.mean(name))

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Per measure, `best_untuned` and `SELECTED` compared with the base."""
        shown = {name: self.values[name] for name in (BASE, self.best_untuned, SELECTED)}
        return compare_measures(shown, base=BASE, groups=self.groups)

    @cached_property
    def against_untuned(self) -> PairedDifference:
        """The paired difference of `SELECTED` to `best_untuned` in MRR@10."""
        ours, theirs = (self.values[name][MEASURE] for name in (SELECTED, self.best_untuned))
        return paired_difference(ours, theirs, groups=self.groups)

    def mean(self, name: str, measure: str = MEASURE) -> float:
        """Mean of a measure over the queries of all folds."""
        return float(self.values[name][measure].mean())
