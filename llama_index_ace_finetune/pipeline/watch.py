"""Watch a query log: whether the queries still are those that a run was made for, and whether to train again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.errors import AceFinetuneError, quoted
from llama_index_ace_finetune.evaluation.report.learning_curve import expected_gain
from llama_index_ace_finetune.production.compared_queries import is_shadow
from llama_index_ace_finetune.production.drift import (
    MIN_QUERIES,
    Drift,
    QuerySample,
    latency_percentiles,
    measure_drift,
)
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import RetrievalRecord
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer
from llama_index_ace_finetune.retrievers.load_models import load_serving_models
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.serving import Serving
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_json import read_json_object

Reference = Literal["run", "log"]
RECENT: Final = 200
_MAX_FALLBACKS: Final = 0.05
# Encoding more memories for the top scores takes minutes each time, unless their vectors are cached.
_MAX_MEMORIES: Final = 20_000
_NAMES: Final = {
    "vectors": "a classifier distinguishes their vectors with an AUC of {value:.2f} (.50: not at all)",
    "low scores": "{value:.0%} have no memory above the fifth percentile of the reference ({reference:.0%} there)",
    "unknown words": "{value:.1%} of their words are in no memory ({reference:.1%} in the reference)",
}


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What a query log says about a run in production.

    Attributes:
        queries: number of recent distinct queries.
        reference: what they were compared with: "run", the queries of dev, or "log", the first queries of the log.
        drift: the tests; None with fewer than 20 queries.
        fallbacks: fraction of the recent searches that a fallback served.
        latency: percentiles "p50", "p95" and "p99" of the recent searches, in milliseconds.
        labelled: number of queries with positive feedback that the run was not trained with.
        gain: MRR@10 that these may add by the slope of the run's learning curve; None without a curve.
        due: whether a new training is due, since the queries have drifted.
        failing: whether more than 5% of the searches were served by a fallback.
        sentence: the result in one sentence.
        notes: what could not be measured, and why.
    """

    queries: int
    reference: Reference
    drift: Drift | None
    fallbacks: float
    latency: Mapping[str, float]
    labelled: int
    gain: float | None
    due: bool
    failing: bool
    sentence: str
    notes: tuple[str, ...] = ()


def watch(
    log: str | Path,
    *,
    run: str | Path,
    last: int = RECENT,
    reference: Reference = "run",
    alpha: float = 0.05,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Watch:
    """Compare the last queries of a log with those that a run was selected on.

    Three tests share the level alpha: a classifier two-sample test on the query vectors, the number of queries whose
    best memory scores low, and the words that no memory has. With unchanged queries, a call says "due" with probability
    alpha at most. Queries of the same text count once.

    Args:
        log: query log.
        run: finished run, for its model, its memories and its dev queries.
        last: number of recent queries.
        reference: "run" compares with the queries of dev. If these were written by other people or a language model,
            or if the log redacts queries, they differ from the beginning; "log" compares with the first queries of the
            log instead.
        alpha: probability of a false alarm.
        cache: folder for the vectors of the memories, which are else encoded at each call.
        progress: called with the number of texts just encoded.
        seed: of the permutations.

    Raises:
        AceFinetuneError: if the log or the run cannot be read, or a value is out of range.
    """
    if last < MIN_QUERIES:
        raise AceFinetuneError(f"The last {last} queries are too few to compare; give at least {MIN_QUERIES}.")
    if reference not in get_args(Reference):
        raise AceFinetuneError(f"The reference is {quoted(reference)}; it must be run or log.")
    if not 0 < alpha < 1:
        raise AceFinetuneError(f"The alpha is {alpha}; it must be between 0 and 1.")
    folder = RunFolder.open(Path(run))
    data = TrainingData.load(folder.training_data)
    with QueryLog.open(log, read_only=True) as opened:
        served = _Served.read(opened, last)
        positive = {one.query_id for one in opened.feedback_records() if one.value > 0}
        labelled = _new_labels(opened, positive, data)
    serving = folder.serving()
    notes: list[str] = []
    usual = [one.query for one in data.examples_of("dev")] if reference == "run" else served.first
    usual = list(dict.fromkeys(usual))
    drift = None
    if min(len(served.recent), len(usual)) >= MIN_QUERIES:
        samples = _Samples(folder, serving, data, Path(cache) if cache else None, progress)
        notes += samples.notes
        drift = measure_drift(samples.of(served.recent), samples.of(usual), alpha=alpha, seed=seed)
    else:
        what = "the run has dev" if reference == "run" else "the log has earlier"
        notes.append(
            f"The log has {len(served.recent)} recent queries and {what} queries: {len(usual)}; at least {MIN_QUERIES} "
            "of each are needed to see drift."
        )
    return _watch(drift, served, serving, reference, labelled, _curve(folder), notes)


@dataclass(slots=True)
class _Served:
    """The log's recent distinct queries, the first ones before them, and the records of the last searches."""

    recent: list[str]
    first: list[str]
    records: list[RetrievalRecord]

    @classmethod
    def read(cls, log: QueryLog, last: int) -> _Served:
        recent: dict[str, None] = {}
        first: dict[str, None] = {}
        records: list[RetrievalRecord] = []
        for record in log.records():
            if is_shadow(record) or not record.query.strip():
                continue
            recent.pop(record.query, None)
            recent[record.query] = None
            if len(recent) > last:
                oldest = next(iter(recent))
                del recent[oldest]
                if len(first) < 2 * last:
                    first[oldest] = None
            records.append(record)
            if len(records) >= 2 * last:
                del records[:last]
        return cls([*recent], [one for one in first if one not in recent], records[-last:])


class _Samples:
    """Queries as figures, by the run's serving model and its memories; before a refit, where there was one."""

    def __init__(
        self, folder: RunFolder, serving: Serving, data: TrainingData, cache: Path | None, progress: Progress | None
    ) -> None:
        served, vectors = folder.model, serving.vectors
        if shipped_refit(read_provenance(served)):
            # Dev queries that were trained on score higher than any new query.
            served, vectors = (folder.selected, vectors) if folder.selected.is_dir() else (served, "base")
        tuned, base, _ = load_serving_models(served, folder.base_model(), vectors=vectors, fallback="off")
        model = tuned or base
        assert model is not None  # without a fallback, a model that cannot be loaded is an error
        self._encoder: Encoder = model.encoder
        self._tokenizer = Tokenizer()
        self._progress = progress
        texts = list(data.memories.values())
        self._vocabulary = {term for text in texts for term in self._tokenizer(text)}
        self._memories: NDArray[np.float32] | None = None
        self.notes: list[str] = []
        if len(texts) > _MAX_MEMORIES and cache is None:
            self.notes.append(f"Low scores are not measured over {len(texts):,} memories without a cache; give one.")
        elif texts:
            self._memories = self._encoder.encode(texts, role="document", cache=cache, progress=progress)

    def of(self, queries: Sequence[str]) -> QuerySample:
        vectors = self._encoder.encode(list(queries), role="query", progress=self._progress)
        top = np.full(len(queries), np.nan)
        if self._memories is not None:
            top = np.asarray((vectors @ self._memories.T).max(axis=1), np.float64)
        return QuerySample(vectors, top, np.array([self._unknown(query) for query in queries]))

    def _unknown(self, query: str) -> float:
        terms = self._tokenizer(query)
        return sum(term not in self._vocabulary for term in terms) / len(terms) if terms else 0.0


def _new_labels(log: QueryLog, positive: set[str], data: TrainingData) -> int:
    known = {text_hash(one.query) for one in data.examples}
    found = {text_hash(record.query) for record in log.records() if record.query_id in positive} if positive else set()
    return len(found - known)


def _curve(folder: RunFolder) -> Sequence[Mapping[str, Any]]:
    """Return the points of the run's learning curve; none if it has none, or a report that cannot be read."""
    if not folder.report.is_file():
        return ()
    curve = read_json_object(folder.report, Refusal("The report", "evaluate the model again")).get("learning_curve")
    points = curve.get("points") if isinstance(curve, Mapping) else None
    return tuple(_numbers(points)) if isinstance(points, list) else ()


def _numbers(points: Sequence[Any]) -> Iterator[Mapping[str, float]]:
    for point in points:
        queries, mean = (point.get(name) if isinstance(point, Mapping) else None for name in ("queries", "mean"))
        if isinstance(queries, int) and queries > 0 and isinstance(mean, float) and math.isfinite(mean):
            yield {"queries": queries, "mean": mean}


def _watch(
    drift: Drift | None,
    served: _Served,
    serving: Serving,
    reference: Reference,
    labelled: int,
    curve: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> Watch:
    fell_back = [_is_fallback(one, serving) for one in served.records]
    fallbacks = sum(fell_back) / len(fell_back) if fell_back else 0.0
    gain = expected_gain(curve, labelled)
    due, failing = bool(drift and drift.found), fallbacks > _MAX_FALLBACKS
    return Watch(
        queries=len(served.recent),
        reference=reference,
        drift=drift,
        fallbacks=fallbacks,
        latency=latency_percentiles([one.seconds for one in served.records if math.isfinite(one.seconds)]),
        labelled=labelled,
        gain=gain,
        due=due,
        failing=failing,
        sentence=_sentence(drift, len(served.recent), reference, labelled, gain, fallbacks if failing else None),
        notes=tuple(notes),
    )


def _is_fallback(record: RetrievalRecord, serving: Serving) -> bool:
    """Whether a fallback served; BM25 only is none if it was asked for, may have been, or was chosen on dev."""
    if record.served_by == "baseline":
        return True
    # In a comparison of two systems, either of which may have been asked for BM25 only, the mode is unknown.
    return record.served_by == "lexical" and record.mode in ("hybrid", "dense") and serving.weights[0] > 0


def _sentence(
    drift: Drift | None,
    queries: int,
    reference: Reference,
    labelled: int,
    gain: float | None,
    fallbacks: float | None,
) -> str:
    usual = "those of dev" if reference == "run" else "the first ones of the log"
    failing = f" A fallback served {fallbacks:.0%} of them: look into the log of the model." if fallbacks else ""
    if drift is None:
        return f"There are too few queries to see drift ({queries} recent ones).{failing}"
    if not drift.found:
        least = min(one.p_value for one in drift.signals)
        return (
            f"No new training is due: the last {queries:,} queries are like {usual} (smallest p {least:.3f}).{failing}"
        )
    reasons = "; ".join(_NAMES[one.name].format(value=one.value, reference=one.reference) for one in drift.found)
    more = f"{labelled:,} queries with positive feedback are new"
    more += f", and may add about {gain:+.3f} MRR@10 by the learning curve" if gain is not None else ""
    return f"A new training is due: the last {queries:,} queries are not like {usual}: {reasons}. {more}.{failing}"
