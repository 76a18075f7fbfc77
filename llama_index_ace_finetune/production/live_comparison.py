"""LiveComparison: which of two systems people use more, from a query log and its feedback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.slices import slice_by_label, slice_by_terciles
from llama_index_ace_finetune.evaluation.stats.confidence_sequence import confidence_sequence
from llama_index_ace_finetune.production.compared_queries import (
    ComparedQueries,
    ComparedQuery,
    choose_comparison,
    useful_results,
)
from llama_index_ace_finetune.production.comparison import Kind
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.ranking.team_draft import Team

_POINTS: Final = 200  # of the plot
_MAX_SLICES: Final = 12  # values of one attribute


@dataclass(frozen=True, slots=True)
class CreditInterval:
    """Mean credit per query with its always-valid interval; `decided` queries have credit."""

    queries: int
    decided: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CreditSlice:
    """The credit of a subset of the queries."""

    dimension: str
    name: str
    credit: CreditInterval


@dataclass(frozen=True, kw_only=True)
class LiveComparison:
    """What the feedback in a query log says about two systems.

    Attributes:
        name: of the comparison.
        kind: "interleaved", "split" or "shadow".
        credit: mean credit per query, in [-1, 1]: above 0 if B is better. With a split by user it is the difference in
            the fraction of users whose first query had a used result.
        wins: number of queries whose credit went to "a" and to "b"; with a split, of users with a used result.
        winner: "a" or "b" once the interval excludes 0, else None.
        may_stop: whether there is a winner. The interval holds at all times together, so one may check it at any time.
        sentence: the result in one sentence.
        alpha: probability that the interval ever misses the true value.
        left_out: number of queries left out, by reason: "paused", "a failed", "b failed".
        overlap: of a shadow comparison: mean rank-biased overlap of the rankings that differ.
        differing: of a shadow comparison: the number of queries whose rankings differ.
        series: the interval over time, with the time in seconds since 1970, at up to 200 queries.
        slices: the credit by length of the query, and by the text values of the records' `extra`. Their intervals are
            not adjusted for the number of slices.
        warnings: what limits the result.
    """

    name: str
    kind: Kind
    credit: CreditInterval
    wins: Mapping[Team, int]
    winner: Team | None
    may_stop: bool
    sentence: str
    alpha: float
    left_out: Mapping[str, int]
    overlap: float | None = None
    differing: int | None = None
    series: tuple[tuple[float, CreditInterval], ...] = ()
    slices: tuple[CreditSlice, ...] = ()
    warnings: tuple[str, ...] = ()


def compare_live(log: QueryLog, *, name: str | None = None, alpha: float = 0.05) -> LiveComparison:
    """Compare two systems by the feedback on what they served.

    A query's credit is 1 if more useful results came from B, -1 if more came from A, else 0. A result is useful if it
    was judged relevant, or used (clicked, cited) and not judged; one that was judged not relevant counts against its
    team. A query counts from the time of its feedback, so feedback may come late. In a shadow comparison, the credit of
    a judged query goes to the ranking with the larger discounted gain.

    Args:
        log: a query log.
        name: of the comparison; not needed if the log has only one.
        alpha: probability that the interval ever misses the true value.

    Raises:
        AceFinetuneError: if the log has no such comparison, or several and no name is given, or cannot be read.
    """
    chosen, found = choose_comparison(log, name)
    queries = _credited(found, useful_results(log.feedback_records(), found.queries))
    values = np.array([query.credit for query in queries])
    bounds = _bounds(found.kind, queries)
    sequence = confidence_sequence(values, bounds=bounds, alpha=alpha)
    decided = np.cumsum(values != 0)

    def at(row: int) -> CreditInterval:
        return CreditInterval(
            row + 1, int(decided[row]), *(float(one[row]) for one in (sequence.mean, sequence.low, sequence.high))
        )

    credit = at(len(values) - 1) if queries else CreditInterval(0, 0, 0.0, *bounds)
    winner: Team | None = "b" if credit.low > 0 else "a" if credit.high < 0 else None
    rows = np.unique(np.linspace(0, len(values) - 1, _POINTS).astype(int)).tolist() if queries else []
    return LiveComparison(
        name=chosen,
        kind=found.kind,
        credit=credit,
        wins=_wins(queries),
        winner=winner,
        may_stop=winner is not None,
        sentence=_sentence(found.kind, credit, winner, alpha),
        alpha=alpha,
        left_out=dict(found.left_out),
        overlap=float(np.mean(found.overlaps)) if found.overlaps else None,
        differing=len(found.overlaps) if found.kind == "shadow" else None,
        series=tuple((queries[row].time, at(row)) for row in rows),
        slices=_slices(queries, values, bounds, alpha),
        warnings=tuple(_warnings(found, credit)),
    )


def _credited(found: ComparedQueries, useful: Mapping[str, tuple[dict[str, float], float]]) -> list[ComparedQuery]:
    """Return the queries that count, with their credit, in the order in which the credit was known."""
    queries = [*found.queries.values()]
    if found.kind == "split":
        first: dict[str, ComparedQuery] = {}
        for query in queries:
            if query.user is not None and query.served is not None:
                first.setdefault(query.user, query)  # later queries of a user are not independent of the first
        queries = [*first.values()]
    elif found.kind == "shadow":
        queries = [query for query in queries if query.query_id in useful and query.shadow]
    for query in queries:
        values, time = useful.get(query.query_id, ({}, query.time))
        query.credit = _credit(found.kind, query, values)
        query.time = time if query.credit else query.time
    return sorted(queries, key=lambda query: query.time)


def _bounds(kind: Kind, queries: Sequence[ComparedQuery]) -> tuple[float, float]:
    if kind != "split" or not queries:
        return -1.0, 1.0
    return -1 / (1 - max(one.fraction for one in queries)), 1 / min(one.fraction for one in queries)


def _credit(kind: Kind, query: ComparedQuery, values: Mapping[str, float]) -> float:
    if kind == "split":  # weighted by the inverse probability of the team, so that the mean is the difference
        success = any(values.get(node_id, 0.0) > 0 for node_id in query.ids)
        weight = 1 / query.fraction if query.served == "b" else -1 / (1 - query.fraction)
        return weight * success
    if kind == "shadow":
        return float(np.sign(round(_gain(query.shadow, values) - _gain(query.ids, values), 9)))
    return float(np.sign(sum((1 if query.teams.get(node_id) == "b" else -1) * value
                             for node_id, value in values.items() if node_id in query.teams)))  # fmt: skip


def _gain(ids: Sequence[str], values: Mapping[str, float]) -> float:
    """Discounted cumulative gain of the relevant memories."""
    return sum(max(values.get(one, 0.0), 0.0) / float(np.log2(rank + 1)) for rank, one in enumerate(ids, 1))


def _wins(queries: Sequence[ComparedQuery]) -> dict[Team, int]:
    return {"a": sum(query.credit < 0 for query in queries), "b": sum(query.credit > 0 for query in queries)}


def _sentence(kind: Kind, credit: CreditInterval, winner: Team | None, alpha: float) -> str:
    unit = "in the fraction of users with a used result" if kind == "split" else "credit per query"
    counted = "users" if kind == "split" else "judged queries" if kind == "shadow" else "queries"
    figures = (
        f"{credit.mean:+.3f} {unit} ({1 - alpha:.0%} interval {credit.low:+.3f} to {credit.high:+.3f}, valid at any "
        f"time) over {credit.queries:,} {counted}, {credit.decided:,} of them with credit"
    )
    if winner == "b":
        return f"B is better than A: {figures}; you may stop and publish B."
    if winner == "a":
        return f"A is better than B: {figures}; you may stop and keep A."
    return f"No winner yet: {figures}; continue, or stop without a winner."


def _slices(
    queries: Sequence[ComparedQuery], values: NDArray[np.float64], bounds: tuple[float, float], alpha: float
) -> tuple[CreditSlice, ...]:
    if not queries:
        return ()
    slices = [*slice_by_terciles("words", [query.words for query in queries])]
    for key in sorted({key for query in queries for key in query.labels}):
        labels = [query.labels.get(key) for query in queries]
        if len({*labels}) <= _MAX_SLICES:
            slices += slice_by_label(key, labels)
    made = []
    for one in slices:
        part = values[one.rows]
        sequence = confidence_sequence(part, bounds=bounds, alpha=alpha)
        ends = (float(end[-1]) for end in (sequence.mean, sequence.low, sequence.high))
        made.append(CreditSlice(one.dimension, one.name, CreditInterval(len(part), int((part != 0).sum()), *ends)))
    return tuple(made)


def _warnings(found: ComparedQueries, credit: CreditInterval) -> Iterable[str]:
    failed = {team: found.left_out.get(f"{team} failed", 0) for team in ("a", "b")}
    for team, count in failed.items():
        if count:
            yield f"{team.upper()} failed on {count:,} queries, which are left out; the other system served them."
    if not credit.decided:
        yield "No feedback on the results of this comparison was found; log it with `retriever.feedback`, or import it."
