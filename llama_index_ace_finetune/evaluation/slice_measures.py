"""Measures of each slice, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.bootstrap import bootstrap_intervals
from llama_index_ace_finetune.evaluation.query_groups import Groups, number_groups
from llama_index_ace_finetune.evaluation.slices import Slice


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SliceMeasures:
    """One slice: how many queries in how many groups, and per name the mean of its per-query values.

    With one group both ends of an interval are the mean, since nothing is known of the spread.
    """

    slice: Slice
    queries: int
    groups: int
    means: Mapping[str, MeanInterval]


def measure_slices(
    slices: Sequence[Slice],
    values: Mapping[str, NDArray[np.float64]],
    *,
    groups: Groups | None = None,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[SliceMeasures, ...]:
    """Return the measures of each slice.

    Args:
        slices: of n queries.
        values: per name (a measure, or the difference of two systems in one), per-query values float [n].
        groups: what queries are resampled with [n]; by default each query is its own group.
        resamples: of each slice's bootstrap.
        seed: of the bootstrap.

    Raises:
        AceFinetuneError: for values that differ in number or are not finite, or a slice of other queries.
    """
    counts = {len(value) for value in values.values()}
    if len(counts) != 1:
        raise AceFinetuneError(
            f"The values of the slices are of {sorted(counts)} queries; give all of the same queries."
        )
    table = np.stack([np.asarray(value, np.float64) for value in values.values()], axis=1)
    if not np.isfinite(table).all():
        raise AceFinetuneError("A per-query value is NaN or infinite; leave out the queries that have no value.")
    labels = number_groups(groups, len(table))
    measured = []
    for part in slices:
        if not len(part.rows) or part.rows.min() < 0 or part.rows.max() >= len(table):
            raise AceFinetuneError(
                f"The slice {part.dimension} = {part.name} is empty or goes beyond the {len(table)} queries; "
                "slice the queries that were measured."
            )
        chosen, own = table[part.rows], number_groups(labels[part.rows], len(part.rows))
        low, high = bootstrap_intervals(chosen, own, resamples=resamples, seed=seed)
        ends = zip(values, chosen.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
        measured.append(
            SliceMeasures(
                slice=part,
                queries=len(part.rows),
                groups=int(own.max()) + 1,
                means={name: MeanInterval(*figures) for name, *figures in ends},
            )
        )
    return tuple(measured)
