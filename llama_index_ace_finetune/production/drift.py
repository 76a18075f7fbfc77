"""Drift: whether the queries of today are still those that a model was trained and selected on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact, mannwhitneyu

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.stats.holm import holm
from llama_index_ace_finetune.evaluation.stats.two_sample_test import classifier_two_sample_test

LOW_SCORE_PERCENTILE: Final = 5.0
MIN_QUERIES: Final = 20


@dataclass(frozen=True, eq=False)
class QuerySample:
    """Distinct queries as figures, one row each.

    Attributes:
        vectors: of the serving model, float [n, d].
        top_scores: cosine of the nearest memory, float [n]; NaN where it is unknown.
        unknown_words: fraction of the words that no memory has, float [n].
    """

    vectors: NDArray[np.float32]
    top_scores: NDArray[np.float64]
    unknown_words: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class DriftSignal:
    """One figure of the recent queries and of the reference, and the p-value of the difference, adjusted by Holm.

    name: "vectors" (area under the ROC curve of a classifier that distinguishes both samples), "low scores" (fraction
    of the queries whose best memory scores under the reference's fifth percentile), or "unknown words" (mean fraction).
    """

    name: str
    value: float
    reference: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Drift:
    """The signals, and whether one of them is significant at level `alpha`, adjusted for their number."""

    queries: int
    reference_queries: int
    signals: tuple[DriftSignal, ...]
    alpha: float

    @property
    def found(self) -> tuple[DriftSignal, ...]:
        """The significant signals."""
        return tuple(one for one in self.signals if one.p_value <= self.alpha)


def measure_drift(recent: QuerySample, reference: QuerySample, *, alpha: float = 0.05, seed: int = 0) -> Drift:
    """Compare recent queries with a reference sample by three tests; the family-wise error is at most alpha.

    The tests are the classifier two-sample test on the vectors, Fisher's exact test on the number of low scores, and
    the Mann-Whitney test on the unknown words; the last two are one-sided. They assume independent queries; repeated
    ones are to be left out of both samples.

    Raises:
        AceFinetuneError: for fewer than 20 queries in a sample.
    """
    if min(len(recent), len(reference)) < MIN_QUERIES:
        raise AceFinetuneError(
            f"There are {len(recent)} recent queries and {len(reference)} of the reference; drift needs at least "
            f"{MIN_QUERIES} of each."
        )
    classifier = classifier_two_sample_test(reference.vectors, recent.vectors, seed=seed)
    unknown = mannwhitneyu(recent.unknown_words, reference.unknown_words, alternative="greater").pvalue
    signals = [
        ("vectors", classifier.auc, 0.5, classifier.p_value),
        (
            "unknown words",
            float(recent.unknown_words.mean()),
            float(reference.unknown_words.mean()),
            float(np.nan_to_num(unknown, nan=1.0)),
        ),
    ]
    scores, expected = (one.top_scores[np.isfinite(one.top_scores)] for one in (recent, reference))
    if min(len(scores), len(expected)) >= MIN_QUERIES:
        floor = np.percentile(expected, LOW_SCORE_PERCENTILE)
        low, low_expected = int((scores < floor).sum()), int((expected < floor).sum())
        table = [[low, len(scores) - low], [low_expected, len(expected) - low_expected]]
        p_value = fisher_exact(table, alternative="greater").pvalue
        signals.insert(1, ("low scores", low / len(scores), low_expected / len(expected), p_value))
    adjusted = holm([p_value for *_, p_value in signals])
    return Drift(
        queries=len(recent),
        reference_queries=len(reference),
        signals=tuple(
            DriftSignal(name, value, usual, float(p_value))
            for (name, value, usual, _), p_value in zip(signals, adjusted, strict=True)
        ),
        alpha=alpha,
    )


def latency_percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the 50th, 95th and 99th percentile in milliseconds; nothing for no values."""
    if not len(seconds):
        return {}
    return {f"p{rank}": float(np.percentile(seconds, rank)) * 1000 for rank in (50, 95, 99)}
