"""The queries of a comparison, from the records of a query log."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from llama_index_ace_finetune.errors import AceFinetuneError, LogError, quoted
from llama_index_ace_finetune.production.comparison import COMPARISON, Kind
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import FeedbackRecord, RetrievalRecord
from llama_index_ace_finetune.production.shadow_retriever import SHADOW_OF
from llama_index_ace_finetune.ranking.team_draft import Team


@dataclass(slots=True)
class ComparedQuery:
    """A served query of the comparison: its team per hit, and later its credit and the time when that was known."""

    query_id: str
    time: float
    words: int
    teams: dict[str, Team]
    labels: dict[str, str]
    user: str | None = None
    served: Team | None = None
    fraction: float = 0.5
    shadow: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    credit: float = 0.0


@dataclass(slots=True)
class ComparedQueries:
    """What the log has of one comparison."""

    kind: Kind
    queries: dict[str, ComparedQuery] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    overlaps: list[float] = field(default_factory=list)


def shadow_queries(log: QueryLog, name: str | None = None) -> list[tuple[RetrievalRecord, RetrievalRecord, float]]:
    """Return the records of A and B, and their overlap, of each query on which they differ; the least overlap first.

    Raises:
        AceFinetuneError: as `compare_live`.
    """
    _, found = choose_comparison(log, name)
    if found.kind != "shadow":
        raise AceFinetuneError("The comparison is not one of a ShadowRetriever, so no results differ unseen.")
    served, pairs = {}, []
    for record in log.records():
        facts = _facts(record)
        if record.query_id in found.queries:
            served[record.query_id] = record
        elif facts and facts.get(SHADOW_OF) in served and not facts.get("failed"):
            pairs.append((served[facts[SHADOW_OF]], record, _number(facts.get("overlap"))))
    return sorted(pairs, key=lambda pair: pair[2])


def is_shadow(record: RetrievalRecord) -> bool:
    """Whether the record is of a search in the background, whose results nobody got."""
    facts = _facts(record)
    return facts is not None and SHADOW_OF in facts


def _facts(record: RetrievalRecord) -> Mapping[str, Any] | None:
    """Return what a record says about its comparison, if it is complete; a log may come from anywhere."""
    facts = record.extra.get(COMPARISON)
    if not isinstance(facts, Mapping):
        return None
    texts = [facts.get(key) for key in ("name", "a", "b")]
    known = facts.get("kind") in get_args(Kind) and isinstance(facts.get(SHADOW_OF, ""), str)
    return facts if known and all(isinstance(one, str) for one in texts) else None


def _number(value: object, default: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return default
    return float(value)


def read_comparisons(records: Iterable[RetrievalRecord]) -> dict[str, ComparedQueries]:
    """Return the comparisons of a log by name, the latest last."""
    comparisons: dict[str, ComparedQueries] = {}
    for record in records:
        facts = _facts(record)
        if facts is None:
            continue
        found = comparisons.pop(facts["name"], None) or ComparedQueries(facts["kind"])
        comparisons[facts["name"]] = found
        if facts["kind"] == found.kind:  # another kind under the same name is another comparison
            _add(found, record, facts)
    return comparisons


def _add(found: ComparedQueries, record: RetrievalRecord, facts: Mapping[str, Any]) -> None:
    failed = facts.get("failed")
    if facts.get("paused") or failed in ("a", "b"):
        found.left_out["paused" if facts.get("paused") else f"{failed} failed"] += 1
        return
    if SHADOW_OF in facts:
        served = found.queries.get(facts[SHADOW_OF])
        if served is not None:
            served.shadow = tuple(hit.node_id for hit in record.hits)
            found.overlaps.append(_number(facts.get("overlap")))
        return
    teams: dict[str, Team] = {facts["a"]: "a", facts["b"]: "b"}
    labels = {key: value for key, value in record.extra.items() if isinstance(value, str)}
    found.queries[record.query_id] = ComparedQuery(
        query_id=record.query_id,
        time=record.time,
        words=len(record.query.split()),
        teams={hit.node_id: teams[hit.team] for hit in record.hits if hit.team in teams},
        labels=labels,
        user=record.user,
        served=teams.get(record.team or ""),
        fraction=min(max(_number(facts.get("fraction"), 0.5), 0.01), 0.99),
        ids=tuple(hit.node_id for hit in record.hits),
    )


def choose_comparison(log: QueryLog, name: str | None) -> tuple[str, ComparedQueries]:
    """Return the comparison of this name, or the only one of the log, with its name.

    Raises:
        AceFinetuneError: if the log has no such comparison, or several and no name is given, or cannot be read.
    """
    comparisons = read_comparisons(log.records())
    if not comparisons:
        raise LogError(
            f"The query log {str(log.path)!r} has no comparison; serve with an InterleavedRetriever that has this log."
        )
    if name is None and len(comparisons) > 1:
        names = ", ".join(quoted(one) for one in comparisons)
        raise AceFinetuneError(f"The query log {str(log.path)!r} has several comparisons ({names}); name one.")
    if name is not None and name not in comparisons:
        names = ", ".join(quoted(one) for one in comparisons)
        raise AceFinetuneError(
            f"The query log {str(log.path)!r} has no comparison {quoted(name)}, only {names}; name one of these."
        )
    chosen = next(iter(comparisons)) if name is None else name
    return chosen, comparisons[chosen]


def useful_results(
    records: Iterable[FeedbackRecord], queries: Mapping[str, ComparedQuery]
) -> dict[str, tuple[dict[str, float], float]]:
    """Return, per query with feedback, 1 or -1 per memory, and the time of the last feedback."""
    judged: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    used: dict[str, set[str]] = defaultdict(set)
    times: dict[str, float] = {}
    for record in records:
        if record.query_id not in queries:
            continue
        times[record.query_id] = max(record.time, times.get(record.query_id, record.time))
        if record.kind == "judgement":
            judged[record.query_id][record.node_id].append(record.value)
        else:
            used[record.query_id].add(record.node_id)
    found = {}
    for query_id, time in times.items():
        values = dict.fromkeys(used[query_id], 1.0)
        values |= {node_id: float(np.sign(sum(given))) for node_id, given in judged[query_id].items()}
        found[query_id] = values, time
    return found
