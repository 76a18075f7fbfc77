"""Evaluate BM25, the base model, the tuned model, their hybrids and further systems on held-out queries."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.evaluation.choosing.limits import ServingLimits
from llama_index_ace_finetune.evaluation.choosing.structures import Embedding
from llama_index_ace_finetune.evaluation.corpus_windows import CorpusWindows
from llama_index_ace_finetune.evaluation.external_systems import retriever_system, run_system
from llama_index_ace_finetune.evaluation.fusion_weights import fusion_choice
from llama_index_ace_finetune.evaluation.known import KnownResults
from llama_index_ace_finetune.evaluation.known_query_choice import with_known_queries
from llama_index_ace_finetune.evaluation.metrics.measures import MEASURES, MRR, measure_rankings
from llama_index_ace_finetune.evaluation.model_systems import ModelSystems
from llama_index_ace_finetune.evaluation.result import BASE, MEASURE, TUNED, Evaluation
from llama_index_ace_finetune.evaluation.servable_systems import ServableSystems
from llama_index_ace_finetune.evaluation.stats.comparison import compare_measures
from llama_index_ace_finetune.evaluation.systems import (
    EncodedSet,
    EvaluationSet,
    System,
    bm25_system,
    time_systems,
)
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.ranking.sparse_index import SparseVectors

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever


def evaluate_systems(
    dataset: RetrievalDataset,
    *,
    test: Sequence[str],
    dev: Sequence[str],
    test_known: Sequence[str] = (),
    dev_known: Sequence[str] = (),
    known_queries: KnownQueries | None = None,
    base: Encoder,
    tuned: Encoder,
    selected: Encoder | None = None,
    also: Sequence[Encoder] = (),
    retrievers: Mapping[str, BaseRetriever] | None = None,
    runs: Sequence[Path] = (),
    cache: Path | None = None,
    timed_queries: int = 100,
    late_interaction: bool = True,
    sparse: SparseVectors | None = None,
    windows: Mapping[str, CorpusWindows] | None = None,
    limits: ServingLimits | None = None,
    kept_tokens: MutableMapping[str, TokenReranker] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare BM25, base, tuned, their hybrids and further systems on `test`; the one to serve is selected on `dev`.

    Every system that can be served is compared on dev (`structures`); the selected one and a few others are measured
    on test. Each model encodes the corpus and the queries once, and the corpus once more for late interaction. Ties are
    ranked by document id.

    Args:
        dataset: corpus and qrels.
        test: query ids that were used neither for training nor for any selection.
        dev: query ids to select the system and its weights on; with fewer than 40 the weights stay neutral.
        test_known: query ids like `test`, but about memories that other queries were trained on.
        dev_known: likewise, to select on whether `known_queries` are further vectors of their memories.
        known_queries: queries that may become such vectors: none of those above.
        base: the untuned model.
        tuned: the model that ships; the base itself if tuning did not help.
        selected: its weights before it was trained on the dev queries as well. They take its place wherever something
            is chosen or measured on dev; by default it was trained on no dev query.
        also: further untuned models, such as a larger one, which may be the cheaper solution.
        retrievers: LlamaIndex retrievers by their name in the report.
        runs: TREC run files with the dataset's ids.
        cache: folder of the vector cache, so that a text is encoded once per model.
        timed_queries: how many test queries to time, one by one; 0 for none.
        late_interaction: whether late interaction can be served.
        sparse: a sparse encoder, to compare systems with the leg "sparse" too.
        windows: of the texts that each model truncates, to compare systems with them too; made here by default, and {}
            compares none.
        limits: of the system to serve.
        kept_tokens: if given, the token vectors of the corpus are added to it, by the fingerprint of their model, so
            that an index need not encode them again.
        progress: called with the number of newly encoded texts.

    Raises:
        DatasetError: if there is no test query, or a run has other ids.
        AceFinetuneError: if two systems have the same name, or a query has no relevant document.
    """
    if not test:
        raise DatasetError(f"{dataset.name}: there is no held-out query to evaluate on; add more queries.")
    data, dev_data = EvaluationSet.of(dataset, test), EvaluationSet.of(dataset, dev)
    every = EvaluationSet.of(dataset, [*test, *dev, *test_known, *dev_known])
    on_test, on_dev, on_known, on_dev_known = _slices(len(test), len(dev), len(test_known), len(dev_known))

    encoders = {BASE: base, TUNED: tuned, **{model.name: model for model in also}}
    encoded = {name: EncodedSet.of(every, model, cache=cache, progress=progress) for name, model in encoders.items()}
    models: dict[Embedding, Encoder] = {"base": base}
    if tuned.fingerprint != base.fingerprint:
        models["tuned"] = tuned
    if windows is None:
        windows = {name: CorpusWindows.of(model, every.corpus) for name, model in models.items()}
    servable = ServableSystems.of(
        every,
        models,
        encoded,
        late_interaction=late_interaction,
        sparse=sparse,
        windows={name: one.encode(cache=cache, progress=progress) for name, one in windows.items()},
        limits=limits,
        kept_tokens=kept_tokens,
        progress=progress,
    )
    index = servable.bm25
    shipped = chooser = ModelSystems(servable, models, encoded)
    if selected is not None and "tuned" in models:
        chooser = shipped.with_tuned(selected, windows=bool(windows), cache=cache, progress=progress)
    latency = time_systems(data.queries[:timed_queries], index, encoders, encoded)
    found = chooser.servable.compare(on_dev, latency=latency, timed_queries=timed_queries, limits=limits)
    if dev_known and known_queries is not None and known_queries.texts:
        is_shipped = chooser is shipped
        shipped = shipped.with_known_queries(known_queries, cache=cache, progress=progress)
        chooser = shipped if is_shipped else chooser.with_known_queries(known_queries, cache=cache, progress=progress)
        choose = partial(
            with_known_queries,
            chooser.servable,
            chooser.known,
            chooser.known_texts,
            dev=on_dev,
            dev_known=on_dev_known,
            limits=limits or ServingLimits(),
        )
        found = replace(found, choice=choose(found.choice), untuned_choice=choose(found.untuned_choice))
    lexical = bm25_system(every, index=index)
    names = [model.name for model in also]
    ours = shipped.systems(found, lexical, also=names)
    # Its rankings of test queries are not looked at.
    ours_on_dev = ours if chooser is shipped else chooser.systems(found, lexical, also=names)
    others = [
        *(retriever_system(dataset, data, retriever, name=name) for name, retriever in (retrievers or {}).items()),
        *(run_system(dataset, data, path) for path in runs),
    ]
    systems = (*(system.rows(on_test) for system in ours), *others)
    _require_unique_names(systems)
    qrels = data.qrels
    values = {
        system.name: measure_rankings(MEASURES, system.rankings, qrels, scores=system.scores) for system in systems
    }
    dev_qrels = dev_data.qrels
    dev_values = {
        one.name: measure_rankings([MRR(10)], one.rows(on_dev).rankings, dev_qrels)[MEASURE] for one in ours_on_dev
    }
    known = None
    if test_known:
        known = KnownResults.of(EvaluationSet.of(dataset, test_known), [one.rows(on_known) for one in ours], base=BASE)
    return Evaluation(
        data=data,
        systems=systems,
        values=values,
        comparisons=compare_measures(values, base=BASE, groups=data.groups),
        fusion=fusion_choice(*found.with_bm25(TUNED, "rrf")),
        base_fusion=fusion_choice(*found.with_bm25(BASE, "rrf")),
        convex_fusion=fusion_choice(*found.with_bm25(TUNED, "convex")),
        choice=found.choice,
        untuned_choice=found.untuned_choice,
        fallback_choice=found.fallback_choice,
        candidates=found.candidates,
        notes=found.notes,
        dev_values=dev_values,
        dev_groups=dev_data.groups,
        latency=latency,
        metadata={query_id: dict(dataset.queries[query_id].metadata) for query_id in test},
        windows=windows,
        known=known,
        token_pooling=servable.token_pooling,
    )


def _slices(*counts: int) -> list[slice]:
    ends = np.cumsum(counts).tolist()
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def _require_unique_names(systems: Sequence[System]) -> None:
    names = [system.name for system in systems]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise AceFinetuneError(f"Two systems have the name {twice!r}; give each system a different name.")
