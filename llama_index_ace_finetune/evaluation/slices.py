"""Queries divided by what they are like."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_ace_finetune.datasets.difficulty import DIFFICULTIES
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.lexical_overlap import lexical_overlap
from llama_index_ace_finetune.evaluation.systems import EvaluationSet

MIN_QUERIES = 10
OTHER = "other"


@dataclass(frozen=True, eq=False)
class Slice:
    """Some of the queries.

    Attributes:
        dimension: what the queries are divided by, such as "category".
        name: which part this is.
        rows: places of its queries, int64, ascending.
        small: fewer than 10 queries even after merging; its figures say little.
    """

    dimension: str
    name: str
    rows: NDArray[np.int64]
    small: bool = False


def slice_by_label(dimension: str, labels: Sequence[str | None], *, order: Sequence[str] = ()) -> tuple[Slice, ...]:
    """Divide queries by a label; a query without one is in no slice.

    Labels with fewer than 10 queries are merged into the slice "other", which comes last; where even that has fewer
    than 10, it is marked as small.

    Args:
        dimension: what the labels are.
        labels: one per query.
        order: of the labels; those not in it follow by name.
    """
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        if label is not None:
            rows.setdefault(label, []).append(row)
    other = sorted(row for label, held in rows.items() if len(held) < MIN_QUERIES or label == OTHER for row in held)
    place = {label: number for number, label in enumerate(order)}
    large = sorted(
        (label for label, held in rows.items() if len(held) >= MIN_QUERIES and label != OTHER),
        key=lambda label: (place.get(label, len(place)), label),
    )
    slices = [Slice(dimension, label, np.array(rows[label], np.int64)) for label in large]
    if other:
        slices.append(Slice(dimension, OTHER, np.array(other, np.int64), small=len(other) < MIN_QUERIES))
    return tuple(slices)


def slice_by_terciles(dimension: str, values: ArrayLike, *, unit: str = "") -> tuple[Slice, ...]:
    """Divide queries into the lower, middle and upper third of a value; equal values are in one slice.

    The thirds end at the quantiles 1/3 and 2/3, so many equal values make them unequal, or leave one out; small ones
    are merged as in `slice_by_label`.

    Args:
        dimension: what the value is.
        values: one per query, float [n].
        unit: what stands after the values in the name of a slice.

    Raises:
        AceFinetuneError: for a value that is not finite.
    """
    figures = np.asarray(values, np.float64)
    if not np.isfinite(figures).all():
        raise AceFinetuneError(f"The {dimension} of a query is NaN or infinite; leave that query out.")
    if not len(figures):
        return ()
    bounds = np.quantile(figures, [1 / 3, 2 / 3], method="inverted_cdf")
    thirds = np.searchsorted(bounds, figures, side="left")
    names = {}
    for third, word in enumerate(("low", "middle", "high")):
        inside = figures[thirds == third]
        if len(inside):
            names[third] = f"{word} ({inside.min():.4g} to {inside.max():.4g}{unit})"
    return slice_by_label(dimension, [names[third] for third in thirds.tolist()], order=list(names.values()))


def slice_queries(
    data: EvaluationSet,
    *,
    metadata: Mapping[str, Mapping[str, object]] | None = None,
    seen_answers: Collection[str] | None = None,
) -> tuple[Slice, ...]:
    """Divide queries by category, difficulty, length, lexical overlap, and whether an answer was trained on.

    Length is in words and overlap is `lexical_overlap`, both in thirds. Parts with fewer than 10 queries are merged
    into "other", as `slice_by_label` says.

    Args:
        data: queries, answers and corpus.
        metadata: per query id, its `query_category` and `difficulty`, where it has them.
        seen_answers: ids of the answers that are right for a training query; without it that division is left out.
    """
    metadata = metadata or {}

    def labels(field: str) -> list[str | None]:
        found = [metadata.get(query_id, {}).get(field) for query_id in data.query_ids]
        return [None if value is None else str(value) for value in found]

    slices = [
        *slice_by_label("category", labels("query_category")),
        *slice_by_label("difficulty", labels("difficulty"), order=DIFFICULTIES),
        *slice_by_terciles("query length", [len(query.split()) for query in data.queries], unit=" words"),
        *slice_by_terciles("lexical overlap", 100 * lexical_overlap(data), unit=" %"),
    ]
    if seen_answers is not None:
        seen = [any(data.corpus_ids[int(row)] in seen_answers for row in rows) for rows in data.relevant]
        slices += slice_by_label("answer", ["seen" if one else "unseen" for one in seen], order=("seen", "unseen"))
    return tuple(slices)
