"""Judgements from a query log: explicit feedback, and use that is corrected for the rank at which it was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.production.records import FeedbackRecord, RetrievalRecord

Evidence = Literal["judgement", "use"]
_SAMPLES: Final = 10


@dataclass(frozen=True, kw_only=True)
class HarvestSettings:
    """When a use counts as a positive.

    Attributes:
        min_uses: events that must agree: uses in different searches with this text, or by different sources.
        min_use_rate: lowest rate of use, corrected for rank, in (0, 1]: uses divided by the number of times that the
            memory was probably seen.
        position_bias: a result at rank r is seen with probability r ** -position_bias, the position-based model of
            Joachims, Swaminathan and Schnabel (2017, "Unbiased learning-to-rank with biased feedback"); 0 is no
            correction.

    Raises AceFinetuneError for a value out of range.
    """

    min_uses: int = 2
    min_use_rate: float = 0.5
    position_bias: float = 1.0

    def __post_init__(self) -> None:
        if self.min_uses < 1:
            raise AceFinetuneError(f"The harvest's min_uses is {self.min_uses}; give 1 or more.")
        if not 0 < self.min_use_rate <= 1:
            raise AceFinetuneError(f"The harvest's min_use_rate is {self.min_use_rate}; give a number in (0, 1].")
        if not 0 <= self.position_bias <= 10:
            raise AceFinetuneError(f"The harvest's position_bias is {self.position_bias}; give 0 to 10.")


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a memory is relevant to a query text, and by which evidence."""

    query: str
    node_id: str
    relevant: bool
    evidence: Evidence


@dataclass
class Judgements:
    """What a log says.

    Attributes:
        found: judgements in the order in which the queries were first served.
        counts: of everything that was used or left out, by name.
        samples: query texts and node ids of some that were left out, by the same names.
    """

    found: list[Judgement] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def leave_out(self, name: str, query: str, node_id: str) -> None:
        """Count a pair that is not used, with an example of it."""
        self.counts[name] += 1
        samples = self.samples.setdefault(name, [])
        if len(samples) < _SAMPLES:
            samples.append((query, node_id))


@dataclass
class _Pair:
    opinions: set[bool] = field(default_factory=set)
    uses: set[tuple[str, str]] = field(default_factory=set)
    searches: set[str] = field(default_factory=set)
    seen: float = 0.0


def judgements_of(
    records: Callable[[], Iterable[RetrievalRecord]],
    feedback: Iterable[FeedbackRecord],
    settings: HarvestSettings | None = None,
) -> Judgements:
    """Return the judgements of a log; queries with equal normalised texts are one query.

    An explicit judgement decides; contradictory ones are left out. Without one, a memory is a positive if enough uses
    agree and their rate, corrected for rank, is high enough. Nothing follows from a memory that was not used.

    Args:
        records: returns the served queries; it is called twice.
        feedback: all feedback.
        settings: when a use counts.
    """
    settings, result = settings or HarvestSettings(), Judgements()
    given: dict[str, list[FeedbackRecord]] = {}
    for one in feedback:
        given.setdefault(one.query_id, []).append(one)
    texts: dict[str, str] = {}
    for record in records():
        result.counts["searches"] += 1
        if record.query_id in given:
            texts.setdefault(normalise(record.query), record.query)
    pairs: dict[tuple[str, str], _Pair] = {}
    known = set()
    for record in records():
        key = normalise(record.query)
        if key in texts:
            known.add(record.query_id)
            _add(pairs, key, record, given.get(record.query_id, ()), settings)
    for query_id, some in given.items():
        result.counts["feedback"] += len(some)
        if query_id not in known:
            result.counts["feedback_of_deleted_query"] += len(some)
    for (key, node_id), pair in pairs.items():
        _judge(result, texts[key], node_id, pair, settings)
    return result


def _add(
    pairs: dict[tuple[str, str], _Pair],
    key: str,
    record: RetrievalRecord,
    given: Iterable[FeedbackRecord],
    settings: HarvestSettings,
) -> None:
    for hit in record.hits:
        pairs.setdefault((key, hit.node_id), _Pair()).seen += propensity(hit.rank, settings.position_bias)
    shown = {hit.node_id for hit in record.hits}
    for one in given:
        pair = pairs.setdefault((key, one.node_id), _Pair())
        if one.kind == "judgement":
            pair.opinions.add(one.value > 0)
            continue
        pair.uses.add((one.query_id, one.source))
        if one.query_id not in pair.searches and one.node_id not in shown:
            pair.seen += 1.0  # it was found in another way
        pair.searches.add(one.query_id)


def _judge(result: Judgements, query: str, node_id: str, pair: _Pair, settings: HarvestSettings) -> None:
    if len(pair.opinions) == 2:
        result.leave_out("contradictory", query, node_id)
    elif pair.opinions:
        relevant = pair.opinions == {True}
        result.found.append(Judgement(query, node_id, relevant, "judgement"))
        result.counts["judged_positive" if relevant else "judged_negative"] += 1
    elif not pair.uses:
        return
    elif len(pair.uses) < settings.min_uses:
        result.leave_out("too_few_uses", query, node_id)
    elif len(pair.searches) / pair.seen < settings.min_use_rate:
        result.leave_out("low_use_rate", query, node_id)
    else:
        result.found.append(Judgement(query, node_id, True, "use"))
        result.counts["used_positive"] += 1


def propensity(rank: int, position_bias: float) -> float:
    """Return the probability that a result at this rank, from 1, is seen."""
    return float(rank**-position_bias)


def labels(counts: Mapping[str, int]) -> list[str]:
    """Return the counts as lines of text."""
    return [f"{count:,} {_LABELS[name]}" for name in _LABELS if (count := counts.get(name, 0))]


_LABELS: Final = {
    "searches": "searches in the log",
    "feedback": "feedback records",
    "judged_positive": "positives by judgement",
    "used_positive": "positives by use",
    "judged_negative": "negatives by judgement",
    "contradictory": "pairs left out: contradictory judgements",
    "too_few_uses": "pairs left out: too few uses",
    "low_use_rate": "pairs left out: used too rarely for how often they were seen",
    "memory_without_text": "judgements left out: the memories have no such id",
    "feedback_of_deleted_query": "feedback records left out: the log has deleted the query",
    "new_queries": "queries that are new to the earlier run",
    "train_queries": "queries that the earlier run trained on, or whose positives it did",
    "dev_queries": "queries of the earlier run's dev part, or with its positives",
    "test_queries": "queries of the earlier run's test part, or with its positives: they are never trained on",
    "mixed_queries": "queries with positives of the earlier run's test part and of another: neither trained nor tested",
}
