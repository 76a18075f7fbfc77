"""Slices of the queries by category, difficulty, length and lexical overlap, and their measures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_ace_finetune.datasets.labels import labels_of
from llama_index_ace_finetune.datasets.types import DIFFICULTIES
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.stats.bootstrap import bootstrap_intervals
from llama_index_ace_finetune.evaluation.stats.groups import Groups, number_groups
from llama_index_ace_finetune.evaluation.stats.paired import require_finite
from llama_index_ace_finetune.evaluation.systems import EvaluationSet
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer


def lexical_overlap(data: EvaluationSet, *, tokenizer: Tokenizer | None = None) -> NDArray[np.float64]:
    """Return the fraction of each query's distinct terms that are in a relevant document, float64 [n] in [0, 1].

    Of several relevant documents the one with the largest overlap counts; a query without terms has 0. Terms are by
    default those of BM25: stemmed, without stop words.
    """
    tokenizer = tokenizer or Tokenizer()
    overlap = np.zeros(len(data.queries))
    for number, (query, rows) in enumerate(zip(data.queries, data.relevant, strict=True)):
        terms = set(tokenizer(query))
        if terms:
            shared = (len(terms & set(tokenizer(data.corpus[int(row)]))) for row in rows)
            overlap[number] = max(shared, default=0) / len(terms)
    return overlap


MIN_QUERIES = 10
OTHER = "other"


@dataclass(frozen=True, eq=False)
class Slice:
    """A subset of the queries.

    Attributes:
        dimension: the attribute that the queries are sliced by, such as "category".
        name: the value or range of that attribute.
        rows: indices of its queries, int64, ascending.
        small: whether it has fewer than 10 queries even after merging; its figures are unreliable.
    """

    dimension: str
    name: str
    rows: NDArray[np.int64]
    small: bool = False


def slice_by_label(
    dimension: str, labels: Sequence[str | Sequence[str] | None], *, order: Sequence[str] = ()
) -> tuple[Slice, ...]:
    """Slice queries by a label; a query without a label is in no slice, one with several in the slice of each.

    Labels with fewer than 10 queries are merged into the slice "other", which comes last; if even that has fewer
    than 10, it is marked as small.

    Args:
        dimension: the attribute that the labels are of.
        labels: one or several per query.
        order: of the labels; labels that are not in it follow in alphabetical order.
    """
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        for one in labels_of(label):
            rows.setdefault(one, []).append(row)
    other = sorted({row for label, held in rows.items() if len(held) < MIN_QUERIES or label == OTHER for row in held})
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
    """Slice queries into terciles of a value; equal values are in one slice.

    The terciles end at the quantiles 1/3 and 2/3; many equal values make them unequal, or leave one empty; small
    ones are merged as in `slice_by_label`.

    Args:
        dimension: the attribute that the values are of.
        values: one per query, float [n].
        unit: unit of the values in the names of slices.

    Raises:
        AceFinetuneError: for a value that is NaN or infinite.
    """
    figures = np.asarray(values, np.float64)
    if not np.isfinite(figures).all():
        raise AceFinetuneError(f"The {dimension} of a query is NaN or infinite; leave that query out.")
    if not len(figures):
        return ()
    bounds = np.quantile(figures, [1 / 3, 2 / 3], method="inverted_cdf")
    thirds = np.searchsorted(bounds, figures, side="left")
    names = {}
    for third, word in enumerate(("low", "medium", "high")):
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
    """Slice queries by category, difficulty, length, lexical overlap, and whether a relevant document was trained on.

    Length is in words and overlap is `lexical_overlap`, both in terciles. Slices with fewer than 10 queries are
    merged into "other", as in `slice_by_label`.

    Args:
        data: queries, relevant documents and corpus.
        metadata: per query id, its `query_category` and `difficulty`, if it has them.
        seen_answers: ids of the documents that are relevant to a training query; None leaves these slices out.
    """
    metadata = metadata or {}

    def labels(field: str) -> list[tuple[str, ...]]:
        return [labels_of(metadata.get(query_id, {}).get(field)) for query_id in data.query_ids]

    slices = [
        *slice_by_label("category", labels("query_category")),
        *slice_by_label("difficulty", labels("difficulty"), order=DIFFICULTIES),
        *slice_by_terciles("query length", [len(query.split()) for query in data.queries], unit=" words"),
        *slice_by_terciles("lexical overlap", 100 * lexical_overlap(data), unit="%"),
    ]
    if seen_answers is not None:
        seen = [any(data.corpus_ids[int(row)] in seen_answers for row in rows) for rows in data.relevant]
        slices += slice_by_label("answer", ["seen" if one else "unseen" for one in seen], order=("seen", "unseen"))
    return tuple(slices)


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SliceMeasures:
    """One slice: its numbers of queries and groups, and per name the mean of its per-query values.

    With one group both ends of an interval are the mean, since the variance is unknown.
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
    """Return the means of each slice with their intervals.

    Args:
        slices: slices of the n queries.
        values: per name (a measure, or a difference of two systems), per-query values float [n].
        groups: the group of each query [n], resampled as a whole; by default each query is one group.
        resamples: number of bootstrap resamples per slice.
        seed: random seed of the bootstrap.

    Raises:
        AceFinetuneError: for values that differ in number or are not finite, or a slice with rows out of range.
    """
    counts = {len(value) for value in values.values()}
    if len(counts) != 1:
        raise AceFinetuneError(
            f"The values of the slices are of {sorted(counts)} queries; give values of the same queries for each name."
        )
    table = np.stack([np.asarray(value, np.float64) for value in values.values()], axis=1)
    require_finite(table)
    labels = number_groups(groups, len(table))
    measured = []
    for part in slices:
        if not len(part.rows) or part.rows.min() < 0 or part.rows.max() >= len(table):
            raise AceFinetuneError(
                f"The slice {part.dimension} = {part.name} is empty or has rows beyond the {len(table)} queries; "
                "slice the queries that were evaluated."
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
