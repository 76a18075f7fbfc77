"""Compare several systems with one base system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.stats.effect_size import paired_effect_size
from llama_index_ace_finetune.evaluation.stats.groups import Groups, number_groups
from llama_index_ace_finetune.evaluation.stats.holm import holm
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference, paired_differences


@dataclass(frozen=True)
class Comparison:
    """Systems compared with a base, on one measure.

    Attributes:
        base: name of the system that the others are compared with.
        queries: number of queries.
        groups: number of groups of queries.
        differences: per other system, its paired difference to the base.
        adjusted: per other system, its p-value adjusted for the number of comparisons (`holm`).
        effect_sizes: per other system, Cohen's d (`paired_effect_size`).
        note: caveat about the intervals; empty if there is none.
    """

    base: str
    queries: int
    groups: int
    differences: Mapping[str, PairedDifference]
    adjusted: Mapping[str, float]
    effect_sizes: Mapping[str, float | None]
    note: str = ""


def compare_systems(
    values: Mapping[str, NDArray[np.float64]],
    *,
    base: str,
    groups: Groups | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare every system with the base on the same queries, using the same resamples for all.

    Args:
        values: per system, per-query values float [n].
        base: the system to compare with.
        groups: the group of each query [n]; by default each query is one group.
        resamples: number of resamples of the bootstrap and of the permutation test.
        seed: random seed of both.

    Raises:
        AceFinetuneError: if the base is not among the systems, there is no query, the systems have different numbers
            of values, or a value is not finite.
    """
    measured = {name: {"": value} for name, value in values.items()}
    return compare_measures(measured, base=base, groups=groups, resamples=resamples, seed=seed)[""]


def compare_measures(
    values: Mapping[str, Mapping[str, NDArray[np.float64]]],
    *,
    base: str,
    groups: Groups | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """`compare_systems` for several measures: one comparison per measure, using the same resamples for all.

    Args:
        values: per system and measure, per-query values float [n]; every system has the measures of the base.
        base: the system to compare with.
        groups: the group of each query [n]; by default each query is one group.
        resamples: number of resamples of the bootstrap and of the permutation test.
        seed: random seed of both.

    Raises:
        AceFinetuneError: as `compare_systems`.
    """
    if base not in values:
        raise AceFinetuneError(f"The base {base!r} is not among the systems {', '.join(values)}; name one of them.")
    measures = list(values[base])
    count = len(next(iter(values[base].values()), ()))
    for name, measured in values.items():
        for value in measured.values():
            if len(value) != count or not count:
                raise AceFinetuneError(
                    f"{name} has {len(value)} values and {base} has {count}; "
                    "evaluate both on the same queries, at least one."
                )
    others = [name for name in values if name != base]
    labels = number_groups(groups, count)
    n_groups = int(labels.max()) + 1
    columns = [np.asarray(values[o][m] - values[base][m], np.float64) for m in measures for o in others]
    stacked = np.stack(columns, axis=1) if columns else np.zeros((count, 0))
    found = paired_differences(stacked, groups=labels, resamples=resamples, seed=seed)
    note = (
        ""
        if n_groups > 1
        else "All queries are in one group, so the variance is unknown; add queries with other relevant documents."
    )
    comparisons = {}
    for place, measure in enumerate(measures):
        part = slice(place * len(others), (place + 1) * len(others))
        comparisons[measure] = Comparison(
            base=base,
            queries=count,
            groups=n_groups,
            differences=dict(zip(others, found[part], strict=True)),
            adjusted=dict(zip(others, holm([one.p_value for one in found[part]]).tolist(), strict=True)),
            effect_sizes=dict(zip(others, map(paired_effect_size, columns[part]), strict=True)),
            note=note,
        )
    return comparisons
