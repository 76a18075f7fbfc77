"""Choose the system to serve on dev, and estimate what this way of choosing gains by nested cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.known_queries import KnownQueryChoice
from llama_index_ace_finetune.evaluation.stats.groups import Groups, number_groups
from llama_index_ace_finetune.evaluation.stats.standard_error import ROUNDING
from llama_index_ace_finetune.ranking.fusion_settings import FusionSettings

MIN_QUERIES: Final = 40
"""With fewer dev queries than this, weights are not selected on them."""
_WEIGHT_ERRORS: Final = 0.5
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen system and the evidence for it.

    Attributes:
        candidate: the chosen structure.
        row: of its grid.
        best: the structure with the highest mean on dev, each at the weights that it would be served with.
        means: per compared structure, its mean MRR@10 on dev at those weights.
        rows: per compared structure, the row of its grid with those weights.
        nested: MRR@10 of each dev query by a system that was chosen without its fold, float64 [n]; with few dev
            queries those of the chosen system.
        known_queries: whether known queries are further vectors of their memories; None if that was not compared.
    """

    candidate: Candidate
    row: int
    best: Candidate
    means: Mapping[str, float]
    rows: Mapping[str, int]
    nested: NDArray[np.float64]
    known_queries: KnownQueryChoice | None = None

    @property
    def system_name(self) -> str:
        """The name of the system in reports."""
        name = self.candidate.structure.system_name(self.row)
        return f"{name} + known queries" if self.uses_known_queries else name

    @property
    def uses_known_queries(self) -> bool:
        """Whether known queries are further vectors, or a field of BM25."""
        return self.offset is not None or self.field_weight > 0

    @property
    def field_weight(self) -> int:
        """The weight of known queries in BM25; 0 if BM25 reads the texts only."""
        return self.known_queries.weight if self.known_queries else 0

    @property
    def offset(self) -> float | None:
        """What is taken off the cosine with a known query; None if known queries are not used."""
        return self.known_queries.offset if self.known_queries else None

    @property
    def settings(self) -> FusionSettings:
        """Legs, weights and fusion method."""
        return self.candidate.structure.settings(self.row)

    @property
    def values(self) -> NDArray[np.float64]:
        """MRR@10 of each dev query, float64 [n]."""
        chosen: NDArray[np.float64] = self.candidate.values[self.row]
        return chosen


def choose(candidates: Sequence[Candidate], *, groups: Groups | None = None, seed: int = 0) -> Choice:
    """Choose a structure and its weights by the MRR@10 of dev queries.

    1. Of each structure, the weights nearest to neutral among those within half a standard error of its best. On
       samples of 150 queries of four public datasets MRR@10 on the others was .558; with a whole one .557, none .560.
    2. The cheapest structure within one standard error of the best; of equally cheap ones that with the highest mean.

    Standard errors are those of paired differences, clustered by group. `nested` repeats both steps on four fifths of
    the groups and measures the result on the rest, five times: the mean of a winner of many is too high, that of
    `nested` is not.

    Source: the one-standard-error rule, Breiman et al., "Classification and Regression Trees", 1984; nested
    cross-validation, Varma and Simon, "Bias in error estimation when using cross-validation for model selection",
    BMC Bioinformatics 2006.

    Args:
        candidates: at least one, with the same queries.
        groups: the group of each query [n].
        seed: random seed of the folds.
    """
    count = candidates[0].values.shape[1]
    labels = number_groups(groups, count)
    index, best, rows = _chosen(candidates, np.arange(count), labels)
    groups_count = int(labels.max(initial=-1)) + 1
    folds = min(_FOLDS, groups_count)
    fold_of = (np.random.default_rng(seed).permutation(groups_count) % max(folds, 1))[labels]
    nested = candidates[index].values[rows[index]].copy()
    for fold in range(folds if folds > 1 else 0):
        kept, left_out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        taken, _, taken_rows = _chosen(candidates, kept, labels[kept])
        nested[left_out] = candidates[taken].values[taken_rows[taken], left_out]
    return Choice(
        candidate=candidates[index],
        row=rows[index],
        best=candidates[best],
        means={one.structure.name: _mean(one.values[row]) for one, row in zip(candidates, rows, strict=True)},
        rows={one.structure.name: row for one, row in zip(candidates, rows, strict=True)},
        nested=nested,
    )


def choose_on_few(candidates: Sequence[Candidate], *, groups: Groups | None = None) -> Choice:
    """Choose with fewer than `MIN_QUERIES` dev queries: a default that needs no choosing, and BM25 if it helps.

    The default is the model that training selected, with late interaction over its hits if that can be served, at
    neutral weights, without windows of long texts. BM25 is added, at neutral weight, if that gains more than one
    standard error on the dev queries.

    On samples of 20 queries of five public datasets, with the untuned model, this had a mean MRR@10 of .530 on the
    others and was on none below dense only (.435); RRF with BM25, added by the same rule, had .488.
    """
    embedding = "tuned" if any(one.structure.trained for one in candidates) else "base"
    by_legs: dict[frozenset[str], Candidate] = {
        frozenset(one.structure.legs): one
        for one in candidates
        if one.structure.embedding in (embedding, "none")
        and one.structure.kind == "convex"
        and not one.structure.windows
    }
    defaults: tuple[frozenset[str], ...] = (frozenset({"dense", "late"}), frozenset({"dense"}))
    chosen = next((by_legs[legs] for legs in defaults if legs in by_legs), candidates[0])
    fused = by_legs.get(frozenset({*chosen.structure.legs, "bm25"}))
    count = chosen.values.shape[1]
    if fused and count:
        gains = (fused.values[fused.structure.neutral_row] - chosen.values[chosen.structure.neutral_row])[None]
        error = _Clusters(number_groups(groups, count)).errors(gains)
        chosen = fused if gains.mean() > error[0] + ROUNDING else chosen
    row = chosen.structure.neutral_row
    compared = [one for one in (*map(by_legs.get, defaults), fused) if one and count]
    return Choice(
        candidate=chosen,
        row=row,
        best=chosen,
        means={one.structure.name: _mean(one.values[one.structure.neutral_row]) for one in compared},
        rows={one.structure.name: one.structure.neutral_row for one in candidates},
        nested=chosen.values[row],
    )


def _mean(values: NDArray[np.float64]) -> float:
    return round(float(values.mean()), 6)


def _chosen(
    candidates: Sequence[Candidate], queries: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[int, int, list[int]]:
    """Return the chosen candidate, the one with the highest mean, and the chosen row of each grid."""
    clusters = _Clusters(labels)
    rows = [_nearest_to_neutral(one, one.values[:, queries], clusters) for one in candidates]
    values = np.stack([one.values[row, queries] for one, row in zip(candidates, rows, strict=True)])
    means = values.mean(axis=1).round(12)
    costs = np.array([one.structure.cost for one in candidates])
    best = int(np.lexsort((costs, -means))[0])
    near = clusters.within(1.0, values, best)
    index = min(near, key=lambda place: (costs[place], -means[place], place))
    return int(index), best, rows


def _nearest_to_neutral(candidate: Candidate, values: NDArray[np.float64], clusters: _Clusters) -> int:
    means, distances = values.mean(axis=1).round(12), candidate.structure.distances
    best = int(np.lexsort((distances, -means))[0])
    near = clusters.within(_WEIGHT_ERRORS, values, best)
    return int(min(near, key=lambda row: (distances[row], -means[row], row)))


class _Clusters:
    """Groups of queries, to compute the standard errors of many means at once."""

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self._order = np.argsort(labels, kind="stable")
        _, self._starts = np.unique(labels[self._order], return_index=True)

    def errors(self, differences: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the cluster-robust standard error of each row's mean, float64 [w], as `standard_error`."""
        count, clusters = differences.shape[1], len(self._starts)
        if clusters < 2:
            return np.where(differences.any(axis=1), np.inf, 0.0)
        centred = (differences - differences.mean(axis=1, keepdims=True))[:, self._order]
        totals = np.add.reduceat(centred, self._starts, axis=1)
        errors: NDArray[np.float64] = np.sqrt((totals**2).sum(axis=1) * clusters / (clusters - 1)) / count
        return errors

    def within(self, errors: float, values: NDArray[np.float64], best: int) -> NDArray[np.intp]:
        """Return the rows of `values` [w, n] whose mean is within some standard errors of that of row `best`."""
        behind = values[best] - values
        return np.flatnonzero(behind.mean(axis=1) <= errors * self.errors(behind) + ROUNDING)
