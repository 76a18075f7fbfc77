"""Evaluation: the results of all systems on one set of queries, and the names of our systems in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import Choice
from llama_index_ace_finetune.evaluation.corpus_windows import CorpusWindows
from llama_index_ace_finetune.evaluation.fusion_weights import FusionChoice
from llama_index_ace_finetune.evaluation.known import KnownResults
from llama_index_ace_finetune.evaluation.metrics.latency import SystemLatency
from llama_index_ace_finetune.evaluation.metrics.measures import MRR
from llama_index_ace_finetune.evaluation.stats.comparison import Comparison
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System

BM25, BASE, TUNED = "BM25", "base", "tuned"
HYBRID_BASE, HYBRID_BASE_WEIGHTED = "base + BM25", "base + BM25, dev weights"
HYBRID_EQUAL, HYBRID_TUNED, HYBRID_CONVEX = "tuned + BM25", "tuned + BM25, dev weights", "tuned + BM25, convex"
HYBRID_BASE_CONVEX = "base + BM25, convex"
MEASURE = str(MRR(10))
"""The measure by which systems and weights are selected."""


@dataclass(frozen=True)
class Evaluation:
    """The results of all systems on one set of queries.

    Attributes:
        data: the queries, their relevant documents and the corpus.
        systems: in the order of the report.
        values: per system and measure, per-query values float [n].
        comparisons: per measure, every system compared with the base.
        fusion: RRF weights of the tuned model and BM25, selected on dev.
        base_fusion: RRF weights of the base model and BM25.
        convex_fusion: weights of the tuned model and BM25 in a convex combination of scores.
        choice: the system selected on dev.
        untuned_choice: likewise, of the systems that do not need the tuned model.
        fallback_choice: likewise, of those that a retriever can serve if the tuned model fails.
        candidates: every structure that can be served, with its values on dev.
        notes: why a leg or a system was left out.
        dev_values: per system that ranked the dev queries, MRR@10 of each query, float [dev].
        dev_groups: the group of each dev query; a bootstrap resamples whole groups.
        latency: of each timed system.
        metadata: per query id, the query metadata of the dataset (category, difficulty).
        windows: the windows of the texts that each model truncates.
        known: our systems on held-out queries about known memories; None if the split has none.
        token_pooling: tokens per stored vector of late interaction, by embedding model.
    """

    data: EvaluationSet
    systems: tuple[System, ...]
    values: Mapping[str, Mapping[str, NDArray[np.float64]]]
    comparisons: Mapping[str, Comparison]
    fusion: FusionChoice
    base_fusion: FusionChoice
    convex_fusion: FusionChoice
    choice: Choice
    untuned_choice: Choice
    fallback_choice: Choice
    candidates: Sequence[Candidate] = ()
    notes: Sequence[str] = ()
    dev_values: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    dev_groups: Sequence[str] = ()
    latency: Mapping[str, SystemLatency] = field(default_factory=dict)
    metadata: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    windows: Mapping[str, CorpusWindows] = field(default_factory=dict)
    known: KnownResults | None = None
    token_pooling: Mapping[str, int] = field(default_factory=dict)

    def mean(self, system: str, measure: str) -> float:
        """Mean of a measure over all queries; a query with an empty ranking counts as 0."""
        return float(self.values[system][measure].mean())

    def system(self, name: str) -> System:
        """The system with this name."""
        return next(system for system in self.systems if system.name == name)

    def difference(self, system: str, measure: str = MEASURE) -> PairedDifference:
        """The paired difference of a system to the base."""
        return self.comparisons[measure].differences[system]
