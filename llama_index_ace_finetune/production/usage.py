"""Usage: volumes of a query log, and the queries that it served worst."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

from llama_index_ace_finetune.production.compared_queries import is_shadow
from llama_index_ace_finetune.production.records import FeedbackRecord, RetrievalRecord


@dataclass(frozen=True, slots=True)
class WorstQuery:
    """A query text: how often it was asked, its rejected results, and the lowest of its best cosines, if known."""

    query: str
    asked: int
    rejected: int
    empty: int
    top_score: float | None


@dataclass(frozen=True)
class Usage:
    """What a query log holds.

    Attributes:
        queries: number of searches, without those in the background.
        feedback: number of feedback records by kind: "relevant", "not relevant", "use".
        served_by: number of searches by what served them, such as "finetuned"; "unknown" for other retrievers.
        days: number of searches by day (UTC), in order.
        worst: queries with rejected results first, then those without results, then those with the lowest scores.
    """

    queries: int
    feedback: dict[str, int]
    served_by: dict[str, int]
    days: tuple[tuple[str, int], ...]
    worst: tuple[WorstQuery, ...]


def measure_usage(records: Iterable[RetrievalRecord], feedback: Iterable[FeedbackRecord], *, worst: int = 20) -> Usage:
    """Count the searches of a log, and find its worst queries."""
    rejected: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for given in feedback:
        kinds["use" if given.kind == "use" else "relevant" if given.value > 0 else "not relevant"] += 1
        rejected[given.query_id] += given.kind == "judgement" and given.value < 0
    served: Counter[str] = Counter()
    days: Counter[str] = Counter()
    found: dict[str, WorstQuery] = {}
    for record in records:
        if is_shadow(record):
            continue
        served[record.served_by or "unknown"] += 1
        days[_day(record.time)] += 1
        known = found.get(record.query, WorstQuery(record.query, 0, 0, 0, None))
        scores = [one for one in (known.top_score, _top_score(record)) if one is not None]
        found[record.query] = WorstQuery(
            record.query,
            known.asked + 1,
            known.rejected + rejected[record.query_id],
            known.empty + (not record.hits),
            min(scores, default=None),
        )
    order = sorted(found.values(), key=lambda one: (-one.rejected, -one.empty, _score(one), one.query))
    return Usage(
        queries=sum(served.values()),
        feedback=dict(kinds),
        served_by=dict(served.most_common()),
        days=tuple(sorted((day, count) for day, count in days.items() if day)),
        worst=tuple(one for one in order if one.rejected or one.empty or one.top_score is not None)[:worst],
    )


def _top_score(record: RetrievalRecord) -> float | None:
    scores = [hit.dense_score for hit in record.hits if hit.dense_score is not None and math.isfinite(hit.dense_score)]
    return max(scores, default=None)


def _score(one: WorstQuery) -> float:
    return math.inf if one.top_score is None else one.top_score


def _day(seconds: float) -> str:
    """Return the day in UTC; an empty text for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, tz=timezone.utc).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return ""
